"""Networks that a host fuses in place: what was there before is kept for trainings, loading and saving.

Hosts up to 8.4.101 and some after them fuse the one network that a ``YOLO`` object has in order to validate or predict.
Its normalisations are gone then, and a training that follows starts from the few tensors that still fit.
"""

from __future__ import annotations

import functools
from copy import deepcopy
from typing import Any

from torch import nn

from ultra_dsmoe.model.settings import align
from ultra_dsmoe.plugin import host

_SPARE = "_unfused"  # among the object's plain attributes, where it is no part of the network
_FOLLOWS = ("names", "args", "task", "pt_path")  # what users and host may have changed on the fused one


def remember(model: Any, ours: bool) -> None:
    """Keep a copy of a ``YOLO`` object's network, where the host is about to fuse the only one.

    Args:
        model: The host's object.
        ours: Whether its network is one of ours, whose text is folded along.
    """
    from ultralytics.engine.validator import BaseValidator

    net = model.model
    copies = hasattr(BaseValidator, "get_model")  # newer hosts fuse a copy themselves
    if not copies and isinstance(net, nn.Module) and hasattr(net, "fuse") and not _is_of(model, net):
        vars(model)[_SPARE] = (net, deepcopy(net), ours)


def spare(model: Any) -> Any:
    """Return the network as it was before the host fused it, with what was set since; None where it did not."""
    if not _is_of(model, model.model):
        return None
    net, kept, ours = vars(model)[_SPARE]
    if _norms(net) == _norms(kept):  # hosts answer `is_fused` by a number of them that nets of ours keep
        return None
    for name in _FOLLOWS:
        if hasattr(net, name):
            setattr(kept, name, getattr(net, name))
    if ours:
        align(kept, net)
    return kept


def _is_of(model: Any, net: Any) -> bool:
    """Whether the copy that is kept is one of this network."""
    return _SPARE in vars(model) and vars(model)[_SPARE][0] is net


def _norms(net: nn.Module) -> int:
    """Return how many batch normalisations a network has; fusing takes them away."""
    return sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())


def restore(model: Any) -> None:
    """Give a ``YOLO`` object the network back that the host fused; its predictor had the fused one."""
    kept = spare(model)
    vars(model).pop(_SPARE, None)
    if kept is not None:
        model.model, model.predictor = kept, None


def wrap_restoring(stock: Any) -> Any:
    """Wrap a method of the host's ``Model`` that changes weights: they belong into the network before fusing."""

    @functools.wraps(stock)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        restore(self)
        return stock(self, *args, **kwargs)

    return host.mark(call)


def wrap_save(stock: Any) -> Any:
    """Wrap the host's ``Model.save``: a file can be trained from, so it gets the network before fusing."""

    @functools.wraps(stock)
    def save(self: Any, *args: Any, **kwargs: Any) -> Any:
        fused, kept = self.model, spare(self)
        if kept is None:
            return stock(self, *args, **kwargs)
        self.model = kept
        try:
            return stock(self, *args, **kwargs)
        finally:
            self.model = fused

    return host.mark(save)
