"""Restricted loading (``ULTRALYTICS_SAFE_LOAD=1``): tell torch which classes of ours a checkpoint may name.

Only when a checkpoint really names them: importing all layers for every stock checkpoint would cost seconds.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import nn

from ultra_dsmoe.plugin import host

OURS = "ultra_dsmoe."
ENCODER = ("timm.layers.", "timm.models.")  # layers that the image encoder is composed of


def permitted(names: list[str]) -> list[Any]:
    """Return the classes among the dotted ``names`` of a checkpoint that it may build because of us.

    Modules of this package and, in a checkpoint that has some, those of the image encoder's library; never a function.
    """
    if not any(name.startswith(OURS) for name in names):
        return []
    classes = []
    for name in names:
        module, _, attribute = name.rpartition(".")
        if not f"{module}.".startswith((OURS, *ENCODER)):
            continue
        cls = getattr(import_module(module), attribute, None)
        if isinstance(cls, type) and issubclass(cls, nn.Module):
            classes.append(cls)
    return classes


def patch_loading(tasks: Any) -> None:
    """Let the host's restricted loading register our classes first; hosts before 8.4.70 have none."""
    safe = getattr(tasks, "_SafeLoad", None)
    if safe is None or not hasattr(safe, "loading") or host.is_marked(safe.loading):
        return
    stock = safe.loading

    @contextmanager
    @functools.wraps(stock)
    def loading(weight: Any) -> Any:
        try:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(weight)
        except ValueError:  # no zip archive; the host reports that
            names = []
        if classes := permitted(names):
            torch.serialization.add_safe_globals(classes)
        with stock(weight) as value:
            yield value

    host.replace(safe, "loading", staticmethod(host.mark(loading)))
