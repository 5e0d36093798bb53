"""Depthwise separable anisotropic convolution (DSA) of the DS-MoE encoder."""

from __future__ import annotations

import math

from torch import Tensor, nn

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register


@register
class DSA(nn.Module):
    """Add a depthwise separable convolution, its 3x3 factorised to 1x3 and 3x1, to the input.

    ``x + ReLU6(BN(PW(ReLU6(BN(DW_3x1(DW_1x3(x)))))))``

    Source: [DSMoE] Eq. 3, 4. The residual is our choice: it lets the block be added to a trained stage. So is ``gain``:
    what is added is never negative and, at 1, about as large as the input, random until it is trained.
    """

    def __init__(self, c: int, k: int = 3, dilation: int = 2, gain: float = 1.0) -> None:
        """Build the block.

        Args:
            c: Channels, kept.
            k: Length of the two one-dimensional kernels, odd.
            dilation: Their dilation; 1 for strides up to 8, else 2.
            gain: Weight that the last batch normalisation starts with. Not 0, where ReLU6 has no gradient.

        Raises:
            ConfigError: If ``k`` is even or ``gain`` no positive number.
        """
        super().__init__()
        if k % 2 == 0:
            raise ConfigError("DSA k", "an odd kernel length", k)
        if isinstance(gain, bool) or not isinstance(gain, (int, float)) or not 0 < gain < math.inf:
            raise ConfigError("DSA gain", "a number > 0", gain)
        pad = dilation * (k // 2)
        last = nn.BatchNorm2d(c)
        nn.init.constant_(last.weight, gain)
        self.body = nn.Sequential(
            nn.Conv2d(c, c, (1, k), padding=(0, pad), dilation=(1, dilation), groups=c, bias=False),
            nn.Conv2d(c, c, (k, 1), padding=(pad, 0), dilation=(dilation, 1), groups=c, bias=False),
            nn.BatchNorm2d(c),
            nn.ReLU6(),
            nn.Conv2d(c, c, 1, bias=False),
            last,
            nn.ReLU6(),
        )

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[from, n, DSA, [dilation, gain]]``."""
        (c1,) = ctx.inputs(1)
        return RowPlan([c1], c1, {"dilation": ctx.arg(0, 2), "gain": ctx.arg(1, 1.0)}, repeats=ctx.n)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's shape, (B, C, H, W)."""
        return x + self.body(x)
