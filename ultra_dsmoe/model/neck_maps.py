"""The maps that a detector's head reads, wherever in the net they come from, and what it makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from ultra_dsmoe.distill.method import Seen
from ultra_dsmoe.model.input_rows import input_rows


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


@contextmanager
def watched(net: Any, *, outputs: bool, stop: bool = False) -> Iterator[Seen]:
    """Give what a forward pass within the block shows: the maps, and what the net's head makes of them.

    Args:
        net: A detector.
        outputs: Whether the head's outputs are wanted; a head in evaluation also decodes, which is left out here.
        stop: Whether to end the pass, and the block, before the detectors where nobody wants their outputs.
    """
    seen = Seen()

    def keep(_head: nn.Module, _inputs: tuple[Any, ...], out: Any) -> None:
        seen.outputs = out[1] if isinstance(out, tuple) else out

    handle = net.model[-1].register_forward_hook(keep) if outputs else None
    try:
        with neck_maps(net, stop=stop and not outputs) as seen.maps:
            yield seen
    finally:
        if handle is not None:
            handle.remove()


def feeding_rows(net: Any) -> list[nn.Module]:
    """Return the rows that a net's detectors read, in their order."""
    return input_rows(net, net.model[-1])
