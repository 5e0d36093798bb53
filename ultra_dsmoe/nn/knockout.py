"""What can be switched off in a trained net, as a block says it of itself, and what a switch may lean on.

A stage is replaced by what it says on average (its mean over the data set) rather than by zero: the stages behind it
then see values of the usual size, and what is lost is what the stage says about the single image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Mean:
    """Running mean per channel over images and positions: of maps (B, C, H, W), cells (B, N, C), vectors (B, C)."""

    total: Tensor | None = None
    count: int = 0

    def add(self, x: Tensor) -> None:
        """Take in what came out for a batch."""
        channel = _channel(x)
        new = x.detach().float().sum([d for d in range(x.ndim) if d != channel]).cpu().double()
        self.total = new if self.total is None else self.total + new
        self.count += x.numel() // x.shape[channel]

    def like(self, x: Tensor) -> Tensor:
        """Return what has the shape, type and device of ``x`` and is the mean everywhere."""
        assert self.total is not None, "nothing was recorded"
        shape = [-1 if d == _channel(x) else 1 for d in range(x.ndim)]
        return (self.total / self.count).to(x).view(shape).expand_as(x).clone()


def _channel(x: Tensor) -> int:
    """Return which dimension is that of the channels: with cells they come last."""
    return 2 if x.ndim == 3 else 1


@dataclass
class Record:
    """What a pass over a data set left behind.

    Attributes:
        means: Mean output of a stage; of the weight for an attention in a head.
        gates: Gate weights of every image, one tensor (B, N) per batch.
    """

    means: dict[nn.Module, Mean] = field(default_factory=dict)
    gates: dict[nn.Module, list[Tensor]] = field(default_factory=dict)

    def routing(self, gate: nn.Module) -> Tensor:
        """Return the gate's weights for all images in order, (I, N) in fp32 on the CPU."""
        return torch.cat(self.gates[gate])


Switch = Callable[[list[Any], Record, int], AbstractContextManager[Any]]


def itself(block: Any) -> Sequence[nn.Module]:
    """Say that a knock-out acts on its block and on nothing inside it."""
    return (block,)


def always(block: Any) -> bool:
    """Say that a knock-out applies to every block of its class."""
    return True


@dataclass(frozen=True)
class Knockout:
    """One thing of a block that can be switched off in a trained net, to see what it is worth.

    Attributes:
        name: Short name, as in ``only=``.
        what: What is done, in plain words.
        switch: ``switch(blocks, record, seed)`` returns the context in which the thing is off in these blocks. It
            works through hooks (`hooked`) or puts back what it changes: no weight is edited.
        needs: What a net must have for it; a row of the class where omitted.
        applies: Whether it concerns a block of the class.
        mean: Whether ``record.means`` must hold their mean output, as `Mean` takes it and `constant` wants it.
        parts: What of the block is handed to ``switch``; the block itself where omitted.
        text: Whether it changes what folded text was computed from: all text is then computed anew.
    """

    name: str
    what: str
    switch: Switch
    needs: str = ""
    applies: Callable[[Any], bool] = always
    mean: bool = False
    parts: Callable[[Any], Sequence[nn.Module]] = itself
    text: bool = False


@contextmanager
def hooked(modules: list[Any], hook: Callable[..., Any]) -> Iterator[None]:
    """Hold a forward hook on modules: ``hook(module, args, out)`` returns what takes the place of ``out``."""
    with ExitStack() as stack:
        for m in modules:
            stack.callback(m.register_forward_hook(hook).remove)
        yield


def constant(blocks: list[Any], record: Record, seed: int) -> AbstractContextManager[Any]:
    """Replace the output of blocks by its mean, for a `Knockout` with ``mean``."""
    return hooked(blocks, lambda m, args, out: record.means[m].like(out))
