"""Stage 9: heterogeneous ensemble of two streams over the expert mixture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Conv

from ultra_dsmoe import checks
from ultra_dsmoe.nn.base import TextFoldMixin
from ultra_dsmoe.nn.folding import LinearFoldMixin, closed, plain, split_inputs
from ultra_dsmoe.nn.neck.space_broadcast import text_map_width
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register


@register
class ExpertEnsemble(LinearFoldMixin, TextFoldMixin):
    """Add a dilated, gate-weighted stream and a text-concatenated stream.

    ``E = CBS3x3_dil2(M' sigmoid(Linear G)) + CBS3x3(Concat[M', tb])``.

    Source: [DSMoE] Eq. 25. Reading M' in place of X is our choice: reading X, alone or beside M', the mixture could be
    replaced by a constant at no cost (docs/results/log.md).
    """

    textual: Any  # a Conv; when folded, its share of the mixture

    def __init__(self, c: int, text_width: int, experts: int) -> None:
        """Build the block for ``c`` channels, T of width ``text_width`` and ``experts`` experts."""
        super().__init__()
        checks.sizes("ExpertEnsemble", c=c, text_width=text_width, experts=experts)
        self.channel_gate = nn.Linear(experts, c)
        self.text = nn.Linear(text_width, text_map_width(c))
        self.dilated = Conv(c, c, 3, d=2)
        self.textual = Conv(c + text_map_width(c), c, 3)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[[mixture, text, gate], 1, ExpertEnsemble, []]``."""
        c1, text_width, experts = ctx.inputs(3)
        return RowPlan([c1, text_width, experts], c1)

    def text_constants(self, text: Tensor | None) -> tuple[Tensor]:
        """Return the text map's vector, (1, C_t, 1, 1)."""
        assert text is not None
        return (self.text(text.mean(0, keepdim=True))[..., None, None],)

    def forward(self, x: list[Tensor]) -> Tensor:
        """Return E, (B, C, H, W), from M' (B, C, H, W), T (K, d_t) and G (B, N)."""
        mixture, text, gate = x
        (text_map,) = self.constants(text)
        gated = mixture * torch.sigmoid(self.channel_gate(gate))[..., None, None]
        tb = text_map.to(mixture.dtype).expand(mixture.shape[0], -1, mixture.shape[2], mixture.shape[3])
        if isinstance(self.textual, Conv):
            return self.dilated(gated) + self.textual(torch.cat([mixture, tb], 1))
        return self.dilated(gated) + self.act(self.textual(mixture) + self.text_map(tb))

    def fold(self) -> None:
        """Convolve the text map by itself: an exported file then has its share of the textual stream as a constant."""
        if isinstance(self.textual, Conv) and plain(self.textual.conv):
            self.act = self.textual.act
            self.textual, self.text_map = split_inputs(closed(self.textual), self.dilated.conv.in_channels)
