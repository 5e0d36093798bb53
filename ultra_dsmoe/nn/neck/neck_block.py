"""Neck block N of the T- and S-model: join a level with its neighbour, refine, attend."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from ultralytics.nn.modules import C3, Conv

from ultra_dsmoe import checks
from ultra_dsmoe.nn.attention.kinds import ATTENTION, ATTENTIONS, USUAL
from ultra_dsmoe.nn.contract import Option
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

DIRECTIONS = ("top_down", "bottom_up")


@register
class NeckBlock(nn.Module):
    """Refine a level together with its neighbour: ``DA(C3(Concat[x, resized neighbour]))``.

    ``top_down`` (block N): ``DA(C3(Concat[x, Up2(CBS1x1(coarser))]))``. ``bottom_up`` (block N reversed):
    ``DA(C3(Concat[x, CBS3x3s2(finer)]))``. DA stands for the attention, which is ``da``, ``cbam`` or ``none``.

    Source: [TS] Sec. 5; widths, and C3 without shortcuts as in YOLOv5's neck, are ours.

    Attributes:
        attention: What ends the block, by which the distiller compares; the identity for ``none``, and None where the
            block is switched off.
    """

    options: ClassVar[dict[str, Option]] = {"neck_down": Option(True, checks.flag), "attention": ATTENTION}
    attention: nn.Module | None

    def __init__(
        self,
        c1: int,
        c_other: int,
        c2: int,
        *,
        n: int = 1,
        direction: str = "top_down",
        on: bool = True,
        attention: str = USUAL,
    ) -> None:
        """Build the block.

        Args:
            c1: Channels of the level.
            c_other: Channels of the neighbour.
            c2: Channels of the result.
            n: Bottlenecks of the C3 block.
            direction: ``top_down`` or ``bottom_up``.
            on: False hands the level on as it is: the ablation without a bottom-up tower.
            attention: ``da``, ``cbam`` or ``none``.

        Raises:
            ConfigError: If direction or attention is none of those, or a size is not a positive integer.
        """
        super().__init__()
        checks.one_of("NeckBlock direction", direction, DIRECTIONS)
        checks.sizes("NeckBlock", c1=c1, c_other=c_other, c2=c2, n=n)
        checks.flag("NeckBlock on", on)
        kind = ATTENTIONS[checks.one_of("NeckBlock attention", attention, ATTENTIONS)]
        self.direction, self.attention = direction, None
        if not on:
            return
        top_down = direction == "top_down"
        self.resize = Conv(c_other, c2, 1) if top_down else Conv(c_other, c_other, 3, 2)
        self.csp = C3(c1 + (c2 if top_down else c_other), c2, n, False)
        self.attention = kind(c2)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[[level, neighbour], n, NeckBlock, [c2, direction, attention]]``.

        ``neck_down: false`` skips ``bottom_up``. A row without an attention has the one that the section names.
        """
        c1, c_other = ctx.inputs(2)
        direction = ctx.arg(1, "top_down")
        on = direction != "bottom_up" or ctx.option("neck_down")
        wide = ctx.scaled(ctx.arg(0))
        c2 = wide if on else c1
        attention = ctx.arg(2, ctx.option("attention"))
        kwargs = {"n": ctx.n, "direction": direction, "on": on, "attention": attention}
        return RowPlan([c1, c_other, c2], c2, kwargs)

    def forward(self, x: list[Tensor]) -> Tensor:
        """Return the refined level, (B, c2, H, W), from the level and its neighbour."""
        level, neighbour = x
        if self.attention is None:
            return level
        neighbour = self.resize(neighbour)
        if self.direction == "top_down":
            neighbour = F.interpolate(neighbour, scale_factor=2.0)
        return self.attention(self.csp(torch.cat([level, neighbour], 1)))
