"""Convolutional block attention module (CBAM): channel, then spatial attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

_MIN_HIDDEN = 4  # so that narrow models keep a channel bottleneck at all


@register
class CBAM(nn.Module):
    """Reweight a map by channel, then by position.

    Source: [DSMoE] Eq. 6-8. The paper calls its CBAM modified without saying how; this is the standard form with
    reduction 16 and a 7x7 kernel. (The host's own CBAM pools by average only and has no bottleneck.)
    """

    residual = False  # as a `DualAttention` may have it

    def __init__(self, c: int, reduction: int = 16, k: int = 7) -> None:
        """Build the block for ``c`` channels.

        Raises:
            ConfigError: If a size is not a positive integer, or the kernel's even.
        """
        super().__init__()
        checks.sizes("CBAM", c=c, reduction=reduction, k=k)
        if k % 2 == 0:
            raise ConfigError("CBAM k", "an odd kernel length", k)
        hidden = max(c // reduction, _MIN_HIDDEN)
        self.mlp = nn.Sequential(nn.Conv2d(c, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, c, 1))
        self.spatial = nn.Conv2d(2, 1, k, padding=k // 2, bias=False)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[from, 1, CBAM, [reduction]]``."""
        (c1,) = ctx.inputs(1)
        return RowPlan([c1], c1, {"reduction": ctx.arg(0, 16)})

    @property
    def channels(self) -> int:
        """Channels of the map."""
        first: Any = self.mlp[0]
        return first.in_channels

    def channel_attention(self, x: Tensor) -> Tensor:
        """Return Mc, (B, C, 1, 1)."""
        mean, peak = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return torch.sigmoid(self.mlp(mean) + self.mlp(peak))  # [DSMoE] Eq. 7

    def spatial_attention(self, x: Tensor) -> Tensor:
        """Return Ms, (B, 1, H, W)."""
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return torch.sigmoid(self.spatial(pooled))  # [DSMoE] Eq. 8

    def weight(self, x: Tensor) -> Tensor:
        """Return what every value is multiplied by, (B, C, H, W), in (0, 1)."""
        channels = self.channel_attention(x)
        return channels * self.spatial_attention(channels * x)

    def attended(self, x: Tensor) -> Tensor:
        """Return the reweighted map, (B, C, H, W): what a distiller compares, as of a `DualAttention`."""
        x = self.channel_attention(x) * x  # [DSMoE] Eq. 6
        return self.spatial_attention(x) * x

    def forward(self, x: Tensor) -> Tensor:
        """Return the reweighted map, (B, C, H, W)."""
        return self.attended(x)
