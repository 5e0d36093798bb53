"""The maps that a detector's head reads, wherever in the net they come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn


class _NeckDone(Exception):
    """Ends a forward pass before the detectors, whose outputs nobody reads."""


@contextmanager
def neck_maps(net: Any, *, stop: bool = False) -> Iterator[list[Tensor]]:
    """Give the list that a forward pass within the block fills with what the net's detectors read, finest first.

    A hook of the block alone: none is left on the net, in its copies or in its checkpoints.

    Args:
        net: A detector.
        stop: Whether to end the pass, and the block, before the detectors.
    """
    head = net.model[-1]
    maps: list[Tensor] = []

    def keep(_head: nn.Module, inputs: tuple[Any, ...]) -> None:
        maps[:] = inputs[0][: head.nl]  # a head with text reads its vectors after the maps
        if stop:
            raise _NeckDone

    handle = head.register_forward_pre_hook(keep)
    try:
        with suppress(_NeckDone):
            yield maps
    finally:
        handle.remove()


def feeding_rows(net: Any) -> list[nn.Module]:
    """Return the rows that a net's detectors read, in their order."""
    head = net.model[-1]
    return [net.model[i if i >= 0 else head.i + i] for i in head.f]
