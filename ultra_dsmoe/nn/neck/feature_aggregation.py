"""Stage 10: aggregate the ensemble and the expert mixture."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.base import AuxLossMixin
from ultra_dsmoe.nn.contract import AuxTerm
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register
from ultra_dsmoe.ops.image_gradient import forward_difference

_REDUCTION = 16  # of the weighting perceptron
_MIN_HIDDEN = 8
_EPS = 1e-4  # of the cosine's denominator


@register
class FeatureAggregation(AuxLossMixin, nn.Module):
    """Blend ensemble and mixture by channel: ``O = a BN(E) + (1 - a) M'``, ``a = sigmoid(W2 ReLU(W1 GAP[E; M']))``.

    Source: [DSMoE] Eq. 26, 27. The convex form is our choice: it is bounded.
    """

    aux_terms: ClassVar[dict[str, AuxTerm]] = {"ga": AuxTerm(0.05)}  # [DSMoE] Eq. 31, its size our choice

    def __init__(self, c: int) -> None:
        """Build the block for ``c`` channels."""
        super().__init__()
        checks.sizes("FeatureAggregation", c=c)
        hidden = max(2 * c // _REDUCTION, _MIN_HIDDEN)
        self.bn = nn.BatchNorm2d(c)
        self.weight = nn.Sequential(nn.Linear(2 * c, hidden), nn.ReLU(), nn.Linear(hidden, c))

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[[ensemble, mixture], 1, FeatureAggregation, []]``."""
        c1, c_mixture = ctx.inputs(2)
        if c1 != c_mixture:
            got = f"{c1} and {c_mixture}"
            raise ConfigError("model YAML row FeatureAggregation", "two maps of equal channels", got)
        return RowPlan([c1], c1)

    def forward(self, x: list[Tensor]) -> Tensor:
        """Return O, (B, C, H, W), from E and M' of the same shape."""
        ensemble, mixture = x
        pooled = torch.cat([ensemble.mean((2, 3)), mixture.mean((2, 3))], 1)
        a = torch.sigmoid(self.weight(pooled))[..., None, None]
        if self.training:
            self.aux = {"ga": gradient_alignment(ensemble, mixture)}
        return a * self.bn(ensemble) + (1 - a) * mixture  # [DSMoE] Eq. 26


def gradient_alignment(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean of 1 - cos between the spatial differences of two maps (B, C, H, W), in [0, 2].

    Source: [DSMoE] Eq. 27; differences of the maps instead of loss gradients are our choice (no double backward).
    """
    da, db = forward_difference(a.float()), forward_difference(b.float())
    cos = (da * db).sum(1) / (da.norm(dim=1) * db.norm(dim=1)).clamp_min(_EPS)
    return (1 - cos).mean()
