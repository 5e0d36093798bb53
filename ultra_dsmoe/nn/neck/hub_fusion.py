"""Hub of the encoder: four pyramid levels brought to stride 16 and fused."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from ultralytics.nn.modules import Conv

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.backbone.gad import GAD
from ultra_dsmoe.nn.folding import LinearFoldMixin, closed, plain, split_inputs
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

DOWNSAMPLING = ("gad", "avg")


@register
class HubFusion(LinearFoldMixin, nn.Module):
    """Fuse X2..X5 to one map of stride 16: ``CBS1x1(Concat[GAD(GAD(X2)), GAD(X3), X4, Up2(X5)])``.

    Source: [DSMoE] Eq. 3 (cross-level concatenation). One hub at stride 16 is our choice: it keeps 32 experts
    affordable; so is halving the channels of X2 and X3 on the way down.
    """

    fuse: Any  # a Conv; when folded, its share of X2 to X4
    c_x5: int | None = None  # nets of older checkpoints do not know it and stay as they are

    def __init__(self, ch: list[int], c2: int, downsampling: str = "gad") -> None:
        """Build the hub.

        Args:
            ch: Channels of X2, X3, X4, X5.
            c2: Hub width.
            downsampling: ``gad``, or ``avg`` (average pooling, the ablation).

        Raises:
            ConfigError: If ``downsampling`` is neither, a size is not a positive integer, or there are not four levels.
        """
        super().__init__()
        checks.one_of("HubFusion downsampling", downsampling, DOWNSAMPLING)
        checks.sizes("HubFusion", ch=ch, c2=c2)
        if not isinstance(ch, (list, tuple)) or len(ch) != 4:
            raise ConfigError("HubFusion ch", "channels of four levels X2..X5", ch)
        gad = downsampling == "gad"
        c_x2, c_x3, c_x4, c_x5 = ch
        c_fine = c_x2 // 2 + c_x3 // 2 if gad else c_x2 + c_x3
        self.down2 = nn.Sequential(GAD(c_x2, c_x2 // 2), GAD(c_x2 // 2, c_x2 // 2)) if gad else nn.AvgPool2d(4)
        self.down3 = GAD(c_x3, c_x3 // 2) if gad else nn.AvgPool2d(2)
        self.fuse = Conv(c_fine + c_x4 + c_x5, c2, 1)
        self.c_x5 = c_x5

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[[x2, x3, x4, x5], 1, HubFusion, [c2, downsampling]]``."""
        ch = ctx.inputs(4)
        c2 = ctx.scaled(ctx.arg(0, 256))
        return RowPlan([ch, c2], c2, {"downsampling": ctx.arg(1, "gad")})

    def forward(self, x: list[Tensor]) -> Tensor:
        """Return F, (B, C, H/16, W/16), from X2..X5 at strides 4, 8, 16, 32."""
        x2, x3, x4, x5 = x
        fine = [self.down2(x2), self.down3(x3), x4]
        if isinstance(self.fuse, Conv):
            return self.fuse(torch.cat([*fine, F.interpolate(x5, scale_factor=2.0)], 1))
        return self.act(self.fuse(torch.cat(fine, 1)) + F.interpolate(self.coarse(x5), scale_factor=2.0))

    def fold(self) -> None:
        """Project X5 before it is enlarged, as a 1x1 convolution allows: a quarter of the positions."""
        if isinstance(self.fuse, Conv) and plain(self.fuse.conv) and self.c_x5 is not None:
            self.act, conv = self.fuse.act, closed(self.fuse)
            self.fuse, self.coarse = split_inputs(conv, conv.in_channels - self.c_x5)
