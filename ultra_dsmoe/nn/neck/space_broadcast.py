"""Stage 6: deformable space broadcasting of the text-aware map."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.base import TextFoldMixin
from ultra_dsmoe.nn.folding import LinearFoldMixin, plain
from ultra_dsmoe.nn.knockout import Knockout, Record, hooked
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register
from ultra_dsmoe.ops import poincare
from ultra_dsmoe.ops.deform_sample import TAPS, deform_sample, deform_sum

MAX_OFFSET = 3.0  # hub pixels; bounded so that the grid stays finite in low precision (our choice)


def text_map_width(c: int) -> int:
    """Return C_t, the width of the text map beside a hub of ``c`` channels: half of it (our choice; 64 at scale s)."""
    return max(c // 2, 1)


def offsets_zero(blocks: list[Any], record: Record, seed: int) -> AbstractContextManager[None]:
    """Sample the regular 3x3 grid: dilation and mask stay."""
    last = [m.offset_pw for m in blocks]
    return hooked(last, lambda m, args, out: torch.zeros_like(out))  # a tanh follows, and tanh 0 = 0


@register
class SpaceBroadcast(LinearFoldMixin, TextFoldMixin):
    """Resample the attended map where hierarchy depth and text say.

    A modulated deformable 3x3 convolution: dilation ``r = 1 + softplus(kap)(1 - |FH|)`` grows for shallow (uncertain)
    positions, offsets come from the fused map and the text, the mask from both. It starts as a plain convolution.

    Source: [DSMoE] Eq. 14-19.
    """

    fast_parameters = ("kappa",)
    knockouts = (Knockout("offsets-zero", "sampling grid not deformed", offsets_zero),)

    def __init__(self, c: int, text_width: int, c2: int) -> None:
        """Build the block for ``c`` channels of both maps, T of width ``text_width`` and ``c2`` output channels."""
        super().__init__()
        checks.sizes("SpaceBroadcast", c=c, text_width=text_width, c2=c2)
        half = c // 2
        text_map = text_map_width(c)
        self.project = nn.Conv2d(c, half, 1)
        self.text = nn.Linear(text_width, text_map)
        self.offset_dw = nn.Conv2d(half + text_map, half + text_map, 3, padding=1, groups=half + text_map)
        self.offset_pw = nn.Conv2d(half + text_map, 2 * TAPS, 1)
        self.mask_image = nn.Conv2d(c + half, TAPS, 1)
        self.mask_text = nn.Linear(text_map, TAPS)
        self.kappa = nn.Parameter(torch.tensor([math.log(math.e - 1)]))  # softplus gives 1
        self.conv = nn.Conv2d(c + half, c2, 3, stride=3, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        for layer in (self.offset_pw, self.mask_image, self.mask_text):
            for p in layer.parameters():
                nn.init.zeros_(p)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[[attended map, fused map, text], 1, SpaceBroadcast, [c2]]``."""
        c1, c_fused, text_width = ctx.inputs(3)
        if c1 != c_fused:
            raise ConfigError("model YAML row SpaceBroadcast", "two maps of equal channels", f"{c1} and {c_fused}")
        given = ctx.arg(0)
        c2 = c1 if given is None else ctx.scaled(given)
        return RowPlan([c1, text_width, c2], c2)

    def text_constants(self, text: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the text map's vector (1, C_t, 1, 1) and its share of the mask (1, 9, 1, 1)."""
        assert text is not None
        vector = self.text(text.mean(0, keepdim=True))
        return vector[..., None, None], self.mask_text(vector)[..., None, None]

    def dilation(self, g: Tensor) -> Tensor:
        """Return r in [1, 1 + softplus(kap)], (B, C, H, W) -> (B, 1, H, W): deep in the ball, fine; near 0, wide."""
        depth = torch.tanh(poincare.norm(g.float(), dim=1))  # |FH|
        return 1 + F.softplus(self.kappa.float()) * (1 - depth)

    def forward(self, x: list[Tensor]) -> Tensor:
        """Return X, (B, c2, H, W), from the attended map F'', the tangent map g (both (B, C, H, W)) and T (K, d_t)."""
        attended, g, text = x
        text_map, text_mask = self.constants(text)
        p = self.project(g)  # [DSMoE] Eq. 15
        f_ms = torch.cat([attended, p], 1)  # [DSMoE] Eq. 16
        tb = text_map.to(p.dtype).expand(p.shape[0], -1, p.shape[2], p.shape[3])
        offset = MAX_OFFSET * torch.tanh(self.offset_pw(self.offset_dw(torch.cat([p, tb], 1))))  # [DSMoE] Eq. 18
        mask = 2 * torch.sigmoid(self.mask_image(f_ms) + text_mask.to(p.dtype))  # [DSMoE] Eq. 19
        where = offset.float(), mask, self.dilation(g)
        if self.conv.kernel_size == (1, 1):  # folded
            return F.silu(self.bn(deform_sum(self.conv(f_ms), *where)))
        return F.silu(self.bn(self.conv(deform_sample(f_ms, *where))))  # [DSMoE] Eq. 17

    @torch.no_grad()
    def fold(self) -> None:
        """Multiply before sampling, where that leaves fewer channels to sample; weights stay a constant 1x1 kernel."""
        conv = self.conv
        if not plain(conv) or conv.kernel_size == (1, 1) or conv.out_channels >= conv.in_channels:
            return
        self.conv = nn.Conv2d(conv.in_channels, TAPS * conv.out_channels, 1, bias=False).to(conv.weight)
        self.conv.weight.copy_(conv.weight.permute(2, 3, 0, 1).reshape(self.conv.weight.shape))
        self.conv.requires_grad_(False)
