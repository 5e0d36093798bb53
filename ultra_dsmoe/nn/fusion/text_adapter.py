"""A small trained adapter behind the frozen text encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.contract import CLASSIFY, Option
from ultra_dsmoe.nn.fusion.split_text import NUMBERS
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

VLM, LLM = 1, 2  # entries of `SplitText`'s list: the text about the picture, and the one about the record
WIDTH = 256  # of the space that picture and texts share, [PFA]


@register
class TextAdapter(nn.Module):
    """Bring a text vector into the shared space: ``linear(v + up(gelu(down(v))))``.

    Encoders give unit vectors. They are scaled to entries of about 1 first, as the recorded numbers behind them are:
    beside the biases of a fresh layer a raw unit vector says next to nothing, and ten numbers outweigh it.

    Source: [PFA] Eq. 2, the text side; one frozen encoder for both texts, the form of the adapters and the scaling are
    our choice.
    """

    task: ClassVar[str] = CLASSIFY
    options: ClassVar[dict[str, Option]] = {"text_numbers": NUMBERS}
    scale: Tensor

    def __init__(self, c1: int, c2: int = WIDTH, hidden: int = 64, *, index: int = VLM, numbers: int = 0) -> None:
        """Build the block.

        Args:
            c1: Length of the vector, numbers included.
            c2: Width of the shared space.
            hidden: Width of the bottleneck.
            index: Which entry of a list is the vector, 1 or 2.
            numbers: How many numbers stand at the vector's end.

        Raises:
            ConfigError: If a value is something else.
        """
        super().__init__()
        checks.sizes("TextAdapter", c1=c1, c2=c2, hidden=hidden)
        checks.one_of("TextAdapter index", index, (VLM, LLM))
        checks.whole("TextAdapter numbers", numbers, 0, c1 - 1)
        self.index = index
        scale = torch.cat([torch.full((c1 - numbers,), math.sqrt(c1 - numbers)), torch.ones(numbers)])
        self.register_buffer("scale", scale, persistent=False)
        self.down, self.up, self.linear = nn.Linear(c1, hidden), nn.Linear(hidden, c1), nn.Linear(c1, c2)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[from, 1, TextAdapter, [index, c2, hidden]]``.

        Raises:
            ConfigError: If the row read is no `SplitText`, or the index is not that of a text.
        """
        if not isinstance(ctx.c1, list) or len(ctx.c1) != LLM + 1 or not all(isinstance(c, int) for c in ctx.c1):
            raise ConfigError("model YAML row TextAdapter", "'from' with one SplitText row", f"{ctx.c1}")
        index = checks.one_of("TextAdapter index", ctx.arg(0), (VLM, LLM))
        c2 = checks.whole("TextAdapter c2", ctx.arg(1, WIDTH))
        numbers = ctx.option("text_numbers") if index == LLM else 0
        return RowPlan([ctx.c1[index], c2, ctx.arg(2, 64)], c2, {"index": index, "numbers": numbers})

    def forward(self, x: Tensor | Sequence[Tensor | None] | None) -> Tensor | None:
        """Return the text in the shared space, (B, c2), None where there is none.

        Args:
            x: The vector, (B, c1), or the list that `SplitText` returns.
        """
        v = x if x is None or isinstance(x, Tensor) else x[self.index]
        if v is None:
            return None
        v = v * self.scale
        return self.linear(v + self.up(F.gelu(self.down(v))))
