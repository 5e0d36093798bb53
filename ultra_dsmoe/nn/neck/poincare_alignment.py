"""Compare the positions of a map with the classes' text on the Poincaré ball."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ultra_dsmoe.nn.base import TextFoldMixin, autocast_off
from ultra_dsmoe.ops import poincare

RADIUS_RANGE = (0.05, 2.0)  # of a class anchor's tangent norm
_INIT_SCALE = 0.15  # s_v of the spec: image vectors start well inside the clip radius
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
            tau: Temperature tau_h to start with; 0.2 is the spec's.
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
        """Return the clipped tangent vectors of the positions, (B, C, H, W) -> (B, L, D), in fp32."""
        tokens = x.float().flatten(2).transpose(1, 2)  # (B, L, C)
        tokens = F.layer_norm(tokens, self.norm.normalized_shape, self.norm.weight.float(), self.norm.bias.float())
        u = F.linear(tokens, self.image.weight.float(), self.image.bias.float())
        return poincare.clip_norm(self.log_scale.float().exp() * u)

    def logits(self, u: Tensor, a: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """Return the class logits -gain d(exp0 u, exp0 a)/tau_h of tangent vectors.

        Args:
            u: Of the positions, (B, L, D), or the anchors, (K, D).
            a: The others.
            gain: A further factor.

        Returns:
            (B, L, K) with the positions first, (B, K, L) with the anchors first.
        """
        factor = gain / self.log_tau.float().exp().clamp(*_TAU_RANGE)  # one product per pair, whatever is in it
        if self.hyperbolic:
            return poincare.distance(u, a) * -factor  # [DSMoE] Eq. 12
        return (u / poincare.norm(u)) @ (a / poincare.norm(a)).transpose(-1, -2) * factor
