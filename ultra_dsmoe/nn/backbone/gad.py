"""Gradient-aware downsampling (GAD): detail where the image has texture, a cheap path where it is smooth."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from ultralytics.utils.torch_utils import fuse_conv_and_bn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ShapeError
from ultra_dsmoe.nn.folding import LinearFoldMixin, plain
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register
from ultra_dsmoe.ops.image_gradient import gradient_magnitude

_WINDOW = 8  # pixels over which the gradient is averaged (our choice)
_EPS = 1e-6  # against a division by zero on constant images


@register
class GAD(LinearFoldMixin, nn.Module):
    """Halve a map, blending an averaging path and a convolving path by local gradient.

    ``Y = SiLU(BN(rho Conv1x1(AvgPool2 X) + (1 - rho) Conv3x3s2(X)))``, ``rho = exp(-alpha E / mean E)`` with E the
    windowed gradient magnitude.

    Source: [DSMoE] Eq. 5. Deviation: the paper lets the stride depend on the data, which neither batches nor exports;
    the stride is always 2 and the gradient steers a blend instead.
    """

    bn: nn.Module

    def __init__(self, c1: int, c2: int) -> None:
        """Build the block for ``c1`` input and ``c2`` output channels."""
        super().__init__()
        checks.sizes("GAD", c1=c1, c2=c2)
        self.smooth = nn.Conv2d(c1, c2, 1, bias=False)
        self.detail = nn.Conv2d(c1, c2, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.log_alpha = nn.Parameter(torch.tensor([math.log(math.e - 1)]))  # softplus gives alpha = 1

    fast_parameters = ("log_alpha",)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[from, 1, GAD, [c2]]``; ``c2`` is scaled by the width multiple."""
        (c1,) = ctx.inputs(1)
        c2 = ctx.scaled(ctx.arg(0, c1))
        return RowPlan([c1, c2], c2)

    def smoothness(self, x: Tensor) -> Tensor:
        """Return rho in (0, 1], (B, C, H, W) -> (B, 1, H/2, W/2); 1 in flat areas."""
        energy = F.avg_pool2d(gradient_magnitude(x.float()), _WINDOW, stride=2, padding=_WINDOW // 2 - 1)
        alpha = F.softplus(self.log_alpha.float())
        return torch.exp(-alpha * energy / (energy.mean((-2, -1), keepdim=True) + _EPS)).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return the halved map, (B, c1, H, W) -> (B, c2, H/2, W/2).

        Raises:
            ShapeError: If H or W is odd.
        """
        h, w = x.shape[-2:]
        if h % 2 or w % 2:
            raise ShapeError("GAD input", "an even height and width", f"{int(h)}x{int(w)}")
        smooth, detail = self.smooth(F.avg_pool2d(x, 2)), self.detail(x)
        return F.silu(self.bn(detail + self.smoothness(x) * (smooth - detail)))

    @torch.no_grad()
    def fold(self) -> None:
        """Fold the batch normalisation into both paths, which is exact since their weights sum to one."""
        if plain(self.smooth, self.detail) and isinstance(self.bn, nn.BatchNorm2d):
            self.smooth, self.detail = (fuse_conv_and_bn(conv, self.bn) for conv in (self.smooth, self.detail))
            self.bn = nn.Identity()
