"""Switches that concern several kinds of blocks, and what a change of text needs around it.

Those of one kind of block are in its own file, those that all lean on in `ultra_dsmoe.nn.knockout`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from ultra_dsmoe.explain.record import blocks
from ultra_dsmoe.nn.base import TextFoldMixin
from ultra_dsmoe.nn.knockout import Record, hooked


def attention_off(attentions: list[Any], record: Record, seed: int) -> AbstractContextManager[None]:
    """Give the attention its neutral weight 1."""
    return hooked(attentions, lambda m, args, out: 2 * args[0] if m.residual else args[0])


def attention_constant(attentions: list[Any], record: Record, seed: int) -> AbstractContextManager[None]:
    """Give the attention its mean weight per channel."""

    def hook(m: Any, args: tuple[Any, ...], out: Tensor) -> Tensor:
        (x,) = args
        y = record.means[m].like(x) * x
        return x + y if m.residual else y

    return hooked(attentions, hook)


@contextmanager
def unfolded(net: nn.Module) -> Iterator[None]:
    """Have everything that depends on text computed anew in every forward; the folded constants stay as they are."""
    folded = [m for m in blocks(net, TextFoldMixin) if m.folded]
    try:
        for m in folded:
            m.folded = False
        yield
    finally:
        for m in folded:
            m.folded = True


def unchanged(nets: list[Any], record: Record, seed: int) -> AbstractContextManager[None]:
    """Switch nothing off."""
    return nullcontext()
