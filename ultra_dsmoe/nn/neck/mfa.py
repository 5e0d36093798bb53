"""Multi-scale feature alignment (MFA): pyramid levels brought to the size of one of them and fused."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from ultralytics.nn.modules import Conv

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.folding import LinearFoldMixin, closed, plain, split_inputs
from ultra_dsmoe.nn.knockout import Knockout, constant
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register


@register
class MFA(LinearFoldMixin, nn.Module):
    """Gather levels at one of them: ``CBS1x1(Concat[A_l])``, A_l by average pooling or bilinear interpolation.

    Source: [GASNet] Sec. 3.1 (a reference level; average pooling downwards, bilinear interpolation upwards,
    concatenation on channels). Which level is the reference is our choice: stride 16, the third of four, costs a
    quarter of stride 8. Levels must be one octave apart, as those of images are whose sides the host makes multiples
    of the largest stride; pooling has a fixed kernel then, which is the adaptive one.
    """

    knockouts = (Knockout("mfa-constant", "aligned levels replaced by their mean", constant, mean=True),)
    fuse: Any  # a Conv; when folded, its share of the reference and the finer levels

    def __init__(self, ch: list[int], c2: int, reference: int = 2) -> None:
        """Build the block.

        Args:
            ch: Channels of the levels, finest first.
            c2: Channels of the result.
            reference: Which level gives the size, counted from 0.

        Raises:
            ConfigError: If a size is not a positive integer, there are fewer than two levels, or the reference is none.
        """
        super().__init__()
        checks.sizes("MFA", ch=ch, c2=c2)
        if not isinstance(ch, (list, tuple)) or len(ch) < 2:
            raise ConfigError("MFA ch", "channels of two levels or more", ch)
        if not checks.is_whole(reference, 0, len(ch) - 1):
            raise ConfigError("MFA reference", f"a level from 0 to {len(ch) - 1}", reference)
        self.reference = reference
        self.finer = nn.ModuleList(nn.AvgPool2d(2 ** (reference - i)) for i in range(reference))
        self.c_coarser = tuple(ch[reference + 1 :])
        self.fuse = Conv(sum(ch), c2, 1)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[[levels], 1, MFA, [c2, reference]]``."""
        ch = ctx.inputs(2, 5)
        c2 = ctx.scaled(ctx.arg(0, 256))
        return RowPlan([ch, c2, ctx.arg(1, 2)], c2)

    def forward(self, x: list[Tensor]) -> Tensor:
        """Return the gathered map, (B, c2, H, W) at the reference's size, from levels (B, C_l, H_l, W_l)."""
        r = self.reference
        fine = [*(pool(level) for pool, level in zip(self.finer, x[:r], strict=True)), x[r]]
        coarse = [_enlarged(level, 2**i) for i, level in enumerate(x[r + 1 :], 1)]
        if isinstance(self.fuse, Conv):
            return self.fuse(torch.cat([*fine, *coarse], 1))
        y = self.fuse(torch.cat(fine, 1))
        for i, (level, conv) in enumerate(zip(x[r + 1 :], self.coarser, strict=True), 1):
            y = y + _enlarged(conv(level), 2**i)
        return self.act(y)

    def fold(self) -> None:
        """Project coarser levels before they are enlarged, as a 1x1 convolution allows: fewer positions."""
        if not (isinstance(self.fuse, Conv) and plain(self.fuse.conv)):
            return
        self.act, conv = self.fuse.act, closed(self.fuse)
        parts: list[nn.Module] = []
        for c in reversed(self.c_coarser):
            conv, part = split_inputs(conv, conv.in_channels - c)
            parts.insert(0, part)
        self.fuse, self.coarser = conv, nn.ModuleList(parts)


def _enlarged(x: Tensor, scale: int) -> Tensor:
    return F.interpolate(x, scale_factor=float(scale), mode="bilinear", align_corners=False)
