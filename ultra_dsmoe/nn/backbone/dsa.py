"""Depthwise separable anisotropic convolution (DSA) of the DS-MoE encoder."""

from __future__ import annotations

from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register


@register
class DSA(nn.Module):
    """Add a depthwise separable convolution, its 3x3 factorised to 1x3 and 3x1, to the input.

    ``x + ReLU6(BN(PW(ReLU6(BN(DW_3x1(DW_1x3(x)))))))``

    Source: [DSMoE] Eq. 3, 4. The residual is our choice: it lets the block be added to a trained stage.
    """

    def __init__(self, c: int, k: int = 3, dilation: int = 2) -> None:
        """Build the block.

        Args:
            c: Channels, kept.
            k: Length of the two one-dimensional kernels, odd.
            dilation: Their dilation; 1 for strides up to 8, else 2.

        Raises:
            ConfigError: If a size is not a positive integer, or ``k`` is even.
        """
        super().__init__()
        checks.sizes("DSA", c=c, k=k, dilation=dilation)
        if k % 2 == 0:
            raise ConfigError("DSA k", "an odd kernel length", k)
        pad = dilation * (k // 2)
        self.body = nn.Sequential(
            nn.Conv2d(c, c, (1, k), padding=(0, pad), dilation=(1, dilation), groups=c, bias=False),
            nn.Conv2d(c, c, (k, 1), padding=(pad, 0), dilation=(dilation, 1), groups=c, bias=False),
            nn.BatchNorm2d(c),
            nn.ReLU6(),
            nn.Conv2d(c, c, 1, bias=False),
            nn.BatchNorm2d(c),
            nn.ReLU6(),
        )

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[from, n, DSA, [dilation]]``."""
        (c1,) = ctx.inputs(1)
        return RowPlan([c1], c1, {"dilation": ctx.arg(0, 2)}, repeats=ctx.n)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's shape, (B, C, H, W)."""
        return x + self.body(x)
