"""Restricted loading (``ULTRALYTICS_SAFE_LOAD=1``): tell torch which classes of ours a checkpoint may name.

Only when a checkpoint really names them: importing all layers for every stock checkpoint would cost seconds. A user's
own layers are among them where they were registered in this process; no module of theirs is imported for a checkpoint.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import nn

from ultra_dsmoe.errors import WeightsError
from ultra_dsmoe.plugin.loading import names_ours, newer

OURS = "ultra_dsmoe."
ENCODER = ("timm.layers.", "timm.models.")  # layers that the image encoder is composed of
REGISTRY = "ultra_dsmoe.nn.registry"
PERMITTED = ("torch.", "ultralytics.")  # by the host itself; some forget it again behind a load


def permitted(names: list[str]) -> list[Any]:
    """Return (class, name) of those among the dotted ``names`` of a checkpoint that it may build because of us.

    Modules of this package, layers that are registered, and, in a checkpoint that has modules of this package, those of
    the image encoder's library; never a function.
    """
    registered = _registered()
    is_ours = any(name.startswith(OURS) for name in names)
    classes: list[Any] = []
    for name in names:
        cls: Any = registered.get(name)
        if cls is None and is_ours and name.startswith((OURS, *ENCODER)):
            module, _, attribute = name.rpartition(".")
            cls = getattr(import_module(module), attribute, None)
        if isinstance(cls, type) and issubclass(cls, nn.Module):
            classes.append((cls, name))  # by the name in the file: it may be a former one
    return classes


def _registered() -> dict[str, type[nn.Module]]:
    """Return the registered layers by the names that a checkpoint gives them; none where nobody has registered any."""
    layers = getattr(sys.modules.get(REGISTRY), "LAYERS", {})
    return {f"{cls.__module__}.{cls.__qualname__}": cls for cls in layers.values()}


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


@contextmanager
def permits(weight: Any) -> Iterator[None]:
    """Let torch build the classes that the checkpoint ``weight`` names and we know, and say which are not known.

    Raises:
        WeightsError: If it names one of ours that this version has not, or the host refuses one of a user's own.
    """
    names = names_in(weight)
    for name in names:
        module, _, attribute = name.rpartition(".")
        if name.startswith(OURS) and not hasattr(import_module(module), attribute):
            raise newer(weight, name)
    if classes := permitted(names):
        torch.serialization.add_safe_globals(classes)
    try:
        yield
    except TypeError as e:  # how the host says that a class was refused
        left = names_in(weight)  # what it permits itself it has permitted by now
        if not left or not names_ours(weight):
            raise
        strange = [name for name in left if not name.startswith(PERMITTED)] or left
        raise WeightsError(str(weight), f"registered layers alone ({_way_out(strange[0])})", ", ".join(strange)) from e


def _way_out(name: str) -> str:
    """Return what makes a class known that the host refused."""
    module = name.rpartition(".")[0]
    if module == "__main__":
        return "@register them in a module that can be imported"
    if module in sys.modules:
        return "one that you trust you may give to torch.serialization.add_safe_globals"
    return f"import {module} first, if it is yours"
