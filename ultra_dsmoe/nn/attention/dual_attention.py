"""Dual attention: a full-size channel weight plus a spatial weight, without pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Conv

from ultra_dsmoe import checks
from ultra_dsmoe.nn.folding import LinearFoldMixin, closed, plain
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

_MIN_HIDDEN = 8  # [TS] Sec. 4: so that narrow maps keep a bottleneck at all


@register
class DualAttention(LinearFoldMixin, nn.Module):
    """Weight every value of a map by the sum of a channel and a spatial attention.

    Source: [TS] Eq. 2-4, 9. Ours: the kernel of the last channel convolution, 1x1; two dilated convolutions in the
    spatial branch, as Eq. 3 has them (BAM has more 1x1 layers); the initialisation.

    The last batch norm of each branch starts with a scale of 0, so both sigmoids start at exactly one half, Mc + Ms at
    exactly 1, and the block at the identity. It can be put into a pretrained net without changing what that computes;
    the scales get a gradient in the first step, everything behind them from the second on. With ``residual`` the map
    is added once more, as the paper's drawing suggests and its equations do not: such a block starts at twice its
    input and is not for pretrained nets.

    Only two of the channel branch's four convolutions have an activation behind them; `fold` merges the others into
    those for inference.
    """

    fast_parameters = ("channel_out.bn.weight", "spatial_out.bn.weight")
    squeeze: nn.Module
    excite: nn.Module
    channel_out: Any

    def __init__(self, c: int, reduction: int = 16, dilation: int = 4, residual: bool = False) -> None:
        """Build the block.

        Args:
            c: Channels of the map.
            reduction: Ratio of the map's to the bottlenecks' channels, at least 8 of which remain.
            dilation: Dilation of the two 3x3 convolutions of the spatial branch, in cells.
            residual: Whether to add the input once more.

        Raises:
            ConfigError: If a size is not a positive integer, or ``residual`` no switch.
        """
        super().__init__()
        checks.sizes("DualAttention", c=c, reduction=reduction, dilation=dilation)
        checks.flag("DualAttention residual", residual)
        hidden = max(c // reduction, _MIN_HIDDEN)
        self.residual = residual
        self.relu = nn.ReLU()
        self.channel_in = nn.Conv2d(c, c, 1)
        self.squeeze = nn.Conv2d(c, hidden, 1)
        self.excite = nn.Conv2d(hidden, c, 1)
        self.channel_out = Conv(c, c, 1, act=nn.Sigmoid())
        self.spatial_in = nn.Conv2d(c, hidden, 3, padding=dilation, dilation=dilation)
        self.spatial_out = Conv(hidden, 1, 3, d=dilation, act=nn.Sigmoid())
        nn.init.zeros_(self.channel_out.bn.weight)
        nn.init.zeros_(self.spatial_out.bn.weight)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[from, n, DualAttention, [reduction, dilation, residual]]``."""
        (c1,) = ctx.inputs(1)
        return RowPlan([c1, ctx.arg(0, 16), ctx.arg(1, 4), ctx.arg(2, False)], c1, repeats=ctx.n)

    @property
    def channels(self) -> int:
        """Channels of the map."""
        return self.channel_in.in_channels

    @torch.no_grad()
    def fold(self) -> None:
        """Merge what is linear in a row: C x C weights become bottlenecks, with the same output.

        A second call does nothing, and so does one on convolutions that quantization-aware training has replaced.
        """
        out = self.channel_out
        if not plain(self.channel_in, self.squeeze, self.excite, getattr(out, "conv", None)):
            return
        self.channel_in, self.squeeze = _product(self.channel_in, self.squeeze), nn.Identity()
        self.channel_out, self.excite = nn.Sequential(_product(self.excite, closed(out)), out.act), nn.Identity()

    def channel_attention(self, x: Tensor) -> Tensor:
        """Return Mc, (B, C, H, W), in (0, 1)."""
        y = self.excite(self.relu(self.squeeze(self.channel_in(x))))  # MLP(Conv(F))
        return self.channel_out(y)  # [TS] Eq. 2

    def spatial_attention(self, x: Tensor) -> Tensor:
        """Return Ms, (B, 1, H, W), in (0, 1)."""
        return self.spatial_out(self.relu(self.spatial_in(x)))  # [TS] Eq. 3

    def weight(self, x: Tensor) -> Tensor:
        """Return Mc(F) + Ms(F), (B, C, H, W), in (0, 2)."""
        return self.channel_attention(x) + self.spatial_attention(x)

    def attended(self, x: Tensor) -> Tensor:
        """Return M(F) = (Mc(F) + Ms(F)) F, (B, C, H, W): what the distiller compares, ``residual`` or not."""
        return self.weight(x) * x  # [TS] Eq. 4, 9

    def forward(self, x: Tensor) -> Tensor:
        """Return the reweighted map, (B, C, H, W)."""
        y = self.attended(x)
        return x + y if self.residual else y


def _product(first: Any, second: Any) -> nn.Conv2d:
    """Return the 1x1 convolution that does what two of them with bias do one after the other."""
    merged: Any = nn.Conv2d(first.in_channels, second.out_channels, 1).to(first.weight)
    w1, w2 = first.weight[:, :, 0, 0].double(), second.weight[:, :, 0, 0].double()
    merged.weight.copy_((w2 @ w1)[..., None, None])
    merged.bias.copy_(w2 @ first.bias.double() + second.bias.double())
    return merged.requires_grad_(False)
