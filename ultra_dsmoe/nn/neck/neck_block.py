"""Neck block N of the T- and S-model: join a level with its neighbour, refine, attend."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from ultralytics.nn.modules import C3, Conv

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.attention.dual_attention import DualAttention
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

DIRECTIONS = ("top_down", "bottom_up")


@register
class NeckBlock(nn.Module):
    """Refine a level together with its neighbour: ``DA(C3(Concat[x, resized neighbour]))``.

    ``top_down`` (block N): ``DA(C3(Concat[x, Up2(CBS1x1(coarser))]))``. ``bottom_up`` (block N reversed):
    ``DA(C3(Concat[x, CBS3x3s2(finer)]))``.

    Source: [TS] Sec. 5; widths, and C3 without shortcuts as in YOLOv5's neck, are ours.

    Attributes:
        attention: The dual attention behind the block, whose weights the distiller compares; None where switched off.
    """

    attention: DualAttention | None

    def __init__(
        self, c1: int, c_other: int, c2: int, *, n: int = 1, direction: str = "top_down", on: bool = True
    ) -> None:
        """Build the block.

        Args:
            c1: Channels of the level.
            c_other: Channels of the neighbour.
            c2: Channels of the result.
            n: Bottlenecks of the C3 block.
            direction: ``top_down`` or ``bottom_up``.
            on: False hands the level on as it is: the ablation without a bottom-up tower.

        Raises:
            ConfigError: If the direction is neither.
        """
        super().__init__()
        if direction not in DIRECTIONS:
            raise ConfigError("NeckBlock direction", " or ".join(DIRECTIONS), direction)
        self.direction, self.attention = direction, None
        if not on:
            return
        top_down = direction == "top_down"
        self.resize = Conv(c_other, c2, 1) if top_down else Conv(c_other, c_other, 3, 2)
        self.csp = C3(c1 + (c2 if top_down else c_other), c2, n, False)
        self.attention = DualAttention(c2)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[[level, neighbour], n, NeckBlock, [c2, direction]]``; ``neck_down: false`` skips ``bottom_up``."""
        c1, c_other = ctx.inputs(2)
        direction = ctx.arg(1, "top_down")
        on = direction != "bottom_up" or ctx.options.get("neck_down", True)
        c2 = ctx.scaled(ctx.arg(0)) if on else c1
        return RowPlan([c1, c_other, c2], c2, {"n": ctx.n, "direction": direction, "on": on})

    def forward(self, x: list[Tensor]) -> Tensor:
        """Return the refined level, (B, c2, H, W), from the level and its neighbour."""
        level, neighbour = x
        if self.attention is None:
            return level
        neighbour = self.resize(neighbour)
        if self.direction == "top_down":
            neighbour = F.interpolate(neighbour, scale_factor=2.0)
        return self.attention(self.csp(torch.cat([level, neighbour], 1)))
