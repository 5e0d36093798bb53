"""Compare the positions of a map with the classes' text on the Poincaré ball."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.nn.base import TextFoldMixin, autocast_off
from ultra_dsmoe.nn.contract import Option
from ultra_dsmoe.ops import poincare

RADIUS_RANGE = (0.05, 2.0)  # of a class anchor's tangent norm
HYPERBOLIC = Option(True, checks.flag)  # of every block that compares on the ball: False is the ablation
_INIT_SCALE = 0.15  # our choice: image vectors start well inside the clip radius
_TAU_RANGE = (0.02, 5.0)  # our choice: keeps the softmax from overflow and from going flat


class PoincareAlignment(TextFoldMixin):
    """Image vectors and class anchors in the tangent space at the origin, and their hyperbolic distances.

    Image vectors ``u_i = s_v W_v LN(f_i)`` and class anchors ``a_k = r_k normalise(W_h normalise(T_k - mean T))``.
    Parameters are Euclidean and everything runs in fp32. `HyperbolicFusion` blends both, `TextLogits` adds the
    distances to a detector's class logits.

    Source: [DSMoE] Eq. 9, 10, 12. Centring the text and the learned radii are our choice (without them all anchors
    coincide and the text does nothing).
    """

    fast_parameters: tuple[str, ...] = ("log_scale", "radius")

    def __init__(
        self, c: int, text_width: int, nc: int, *, width: int | None = None, hyperbolic: bool = True, tau: float = 0.2
    ) -> None:
        """Build the alignment.

        Args:
            c: Channels C of the map.
            text_width: Width d_t of T.
            nc: Number of classes K.
            width: Dimensions of the ball; as many as channels where omitted.
            hyperbolic: False replaces the distance by a cosine at the same shapes (the ablation).
            tau: Temperature to start with; 0.2 is our choice.
        """
        super().__init__()
        self.nc, self.hyperbolic = nc, hyperbolic
        self.norm = nn.LayerNorm(c)
        self.image = nn.Linear(c, width or c)
        self.anchor = nn.Linear(text_width, width or c, bias=False)
        self.log_scale = nn.Parameter(torch.tensor([math.log(_INIT_SCALE)]))
        self.log_tau = nn.Parameter(torch.tensor([math.log(tau)]))
        self.radius = nn.Parameter(torch.ones(nc))

    def text_constants(self, text: Tensor | None) -> tuple[Tensor]:
        """Return the anchors a_k in the tangent space, (K, D), in fp32."""
        assert text is not None
        with autocast_off(text):
            t = text.float()
            centred = t - t.mean(0) if len(t) > 1 else t  # a single class has no mean to differ from
            direction = F.normalize(F.linear(F.normalize(centred, dim=-1), self.anchor.weight.float()), dim=-1)
            return (self.radius.float().clamp(*RADIUS_RANGE).unsqueeze(-1) * direction,)  # [DSMoE] Eq. 10

    def image_tangent(self, x: Tensor) -> Tensor:
        """Return the clipped tangent vectors of the positions, (B, C, H, W) -> (B, D, L), in fp32.

        The layer normalisation and the linear layer behind it are written out for maps, components first: exported,
        that saves two transpositions and what ONNX Runtime takes for a number per row.
        """
        maps = x.float().flatten(2)  # (B, C, L)
        mean = maps.new_full((1, maps.shape[1]), 1 / maps.shape[1])  # as a product: ReduceMean is slow over this axis
        maps = maps - mean @ maps
        deviation = (mean @ (maps * maps) + self.norm.eps).sqrt()  # (B, 1, L)
        scale, weight = self.log_scale.float().exp(), self.image.weight.float()
        bias = F.linear(self.norm.bias.float(), weight, self.image.bias.float())
        u = (scale * weight * self.norm.weight.float()) @ maps / deviation + (scale * bias).unsqueeze(-1)
        return poincare.clip_norm(u, dim=-2)

    def logits(self, u: Tensor, a: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """Return the class logits -gain d(exp0 u, exp0 a)/tau_h, (B, K, L).

        Args:
            u: Tangent vectors of the positions, (B, D, L).
            a: The anchors, (K, D).
            gain: A further factor.
        """
        factor = gain / self.log_tau.float().exp().clamp(*_TAU_RANGE)  # one product per pair, whatever is in it
        if self.hyperbolic:
            return poincare.distance(u, a, dim=-2) * -factor  # [DSMoE] Eq. 12
        return (a / poincare.norm(a)) @ (u / poincare.norm(u, dim=-2)) * factor
