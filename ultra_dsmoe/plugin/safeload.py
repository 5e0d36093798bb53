"""Restricted loading (``ULTRALYTICS_SAFE_LOAD=1``): tell torch which classes of ours a checkpoint may name.

Only when a checkpoint really names them: importing all layers for every stock checkpoint would cost seconds.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import torch
from torch import nn

from ultra_dsmoe.plugin.loading import newer

OURS = "ultra_dsmoe."
ENCODER = ("timm.layers.", "timm.models.")  # layers that the image encoder is composed of


def permitted(names: list[str]) -> list[Any]:
    """Return (class, name) of those among the dotted ``names`` of a checkpoint that it may build because of us.

    Modules of this package and, in a checkpoint that has some, those of the image encoder's library; never a function.
    """
    if not any(name.startswith(OURS) for name in names):
        return []
    classes: list[Any] = []
    for name in names:
        module, _, attribute = name.rpartition(".")
        if not f"{module}.".startswith((OURS, *ENCODER)):
            continue
        cls = getattr(import_module(module), attribute, None)
        if isinstance(cls, type) and issubclass(cls, nn.Module):
            classes.append((cls, name))  # by the name in the file: it may be a former one
    return classes


def names_in(weight: Any) -> list[str]:
    """Return the dotted names in a checkpoint that torch does not permit by itself.

    Nothing for what is no file or no archive (the host reports that), and before torch 2.6, which cannot tell.
    """
    from ultralytics.utils import SETTINGS

    ask = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
    places = (str(weight).strip(), os.path.join(SETTINGS["weights_dir"], str(weight).strip()))  # as the host looks
    path = next(filter(os.path.isfile, places), None)
    if ask is None or path is None:
        return []
    try:
        return ask(path)
    except ValueError:
        return []


def permit(weight: Any) -> None:
    """Let torch build the classes of ours that the checkpoint ``weight`` names.

    Raises:
        WeightsError: If it names one that this version has not.
    """
    names = names_in(weight)
    for name in names:
        module, _, attribute = name.rpartition(".")
        if name.startswith(OURS) and not hasattr(import_module(module), attribute):
            raise newer(weight, name)
    if classes := permitted(names):
        torch.serialization.add_safe_globals(classes)
