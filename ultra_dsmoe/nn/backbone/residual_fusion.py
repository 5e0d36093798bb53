"""Weighted residual fusion path: a level's two finer neighbours join it on its way to the neck."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register


@register
class ResidualFusion(nn.Module):
    """``F = SiLU(BN(sum_i Conv1x1(Conv3x3(x_i)) softmax(w)_i))`` over a level and the finer ones before it.

    The 3x3 convolution brings a finer level to the level's size, the 1x1 to its channels; w is learned, from 0 on.

    Source: [TS] Eq. 1. Ours: the softmax (the printed denominator sums over the numerator's index), SiLU and batch norm
    as the unnamed f, depthwise 3x3 convolutions, and which levels are fused.

    Attributes:
        fast_parameters: Names of the scalars that the trainer gives a faster pace.
    """

    fast_parameters = ("logits",)

    def __init__(self, ch: list[int], enabled: bool = True) -> None:
        """Build the path.

        Args:
            ch: Channels of successive levels, the finest first, the level itself last.
            enabled: False hands the level on as it is: the ablation.

        Raises:
            ConfigError: If there is no level, or a value of another kind.
        """
        super().__init__()
        if not ch:
            raise ConfigError("ResidualFusion ch", "the channels of at least one level", ch)
        checks.sizes("ResidualFusion", ch=ch)
        checks.flag("ResidualFusion enabled", enabled)
        self.enabled = enabled
        if not enabled:
            return
        last = len(ch) - 1
        self.paths = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, c, 3, stride=2 ** (last - i), padding=1, groups=c, bias=False),
                nn.Conv2d(c, ch[last], 1, bias=False),
            )
            for i, c in enumerate(ch)
        )
        self.logits = nn.Parameter(torch.zeros(len(ch)))
        self.bn, self.act = nn.BatchNorm2d(ch[last]), nn.SiLU()

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[[finest, ..., level], 1, ResidualFusion, []]``; ``residual_path: false`` switches it off."""
        ch = ctx.inputs(1, len(ctx.c1) if isinstance(ctx.c1, list) else 1)
        return RowPlan([ch], ch[-1], {"enabled": ctx.options.get("residual_path", True)})

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        """Return the level with its finer neighbours, (B, C, H, W), from maps (B, C_i, 2^k H, 2^k W), finest first."""
        levels = [x] if isinstance(x, Tensor) else x
        if not self.enabled:
            return levels[-1]
        shares = self.logits.softmax(0)
        fused = sum(path(level) * share for path, level, share in zip(self.paths, levels, shares, strict=True))
        return self.act(self.bn(fused))  # [TS] Eq. 1
