"""Pure functions on the Poincaré ball, written so that they export and stay accurate in fp32.

Sources: [DSMoE] Eq. 9, 10, 12, 13 and its text; the distance is the hyperbolic law of cosines on tangent vectors, which
needs neither ``artanh`` nor a clamp on the ball. ``curvature`` c > 0 means sectional curvature -c.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_TANGENT_NORM = 2.0  # our choice: tanh(2) = 0.964 keeps fp32 exact to about 1e-6
_EPS_NORM = 1e-6  # norms below count as zero
_BALL_MARGIN = 1e-5  # distance kept from the boundary by `project`
_EPS_COSH = 1e-7  # least argument of arcosh(1 + e); its slope is infinite at zero


def norm(x: Tensor) -> Tensor:
    """Return the Euclidean norm over the last axis, kept, at least 1e-6 and with a finite gradient at zero."""
    return (x * x).sum(-1, keepdim=True).clamp_min(_EPS_NORM**2).sqrt()


def clip_norm(u: Tensor, limit: float = MAX_TANGENT_NORM) -> Tensor:
    """Shorten tangent vectors (..., D) to at most ``limit``."""
    return u * (limit / _flat_norm(u)).clamp_max(1.0).unsqueeze(-1)


def exp0(u: Tensor, curvature: float = 1.0) -> Tensor:
    """Map tangent vectors at the origin (..., D) onto the ball.

    Source: [DSMoE] Eq. 9. The map is conformal at the origin: it keeps angles exactly, where [DSMoE] Eq. 13 asks for
    within a tolerance.
    """
    r = curvature**0.5 * norm(u)
    return torch.tanh(r) * u / r


def project(x_ball: Tensor, curvature: float = 1.0) -> Tensor:
    """Pull points (..., D) back inside the ball by a margin of 1e-5."""
    limit = (1 - _BALL_MARGIN) / curvature**0.5
    return x_ball * (limit / norm(x_ball)).clamp_max(1.0)


def log0(x_ball: Tensor, curvature: float = 1.0) -> Tensor:
    """Map points of the ball (..., D) back to the tangent space at the origin: the inverse of `exp0`."""
    r = curvature**0.5 * norm(project(x_ball, curvature))
    return 0.5 * torch.log((1 + r) / (1 - r)) * x_ball / (curvature**0.5 * norm(x_ball))


def distance(u: Tensor, a: Tensor, curvature: float = 1.0) -> Tensor:
    """Return the distances between exp0(u) and exp0(a), from the tangent vectors themselves.

    With A = 2 sqrt(c)|u|, B = 2 sqrt(c)|a|: cosh(d sqrt(c)) - 1 = 2 sinh^2((A-B)/2) + sinh A sinh B (1 - cos). Both
    terms come as products of matrices, sinh((A-B)/2) by the addition theorem, so that little is computed per pair.

    Source: [DSMoE] Eq. 12, in the law-of-cosines form.

    Args:
        u: Tangent vectors, (..., L, D).
        a: Tangent vectors, (K, D).
        curvature: c > 0.

    Returns:
        Distances >= 0, (..., L, K).
    """
    half_u, full_u, along_u = _arms(u, curvature)
    half_a, full_a, along_a = _arms(a, curvature)
    across = torch.stack([2**0.5 * half_a[..., 1], -(2**0.5) * half_a[..., 0]], -1)
    radial = half_u @ across.transpose(-1, -2)  # (..., L, K)
    angular = torch.cat([full_u, along_u], -1) @ torch.cat([full_a, -along_a], -1).transpose(-1, -2)
    delta = (radial * radial + angular.clamp_min(0)).clamp_min(_EPS_COSH)
    return torch.log(1 + delta + torch.sqrt(delta * (delta + 2))) / curvature**0.5


def pair_distance(u: Tensor, a: Tensor, curvature: float = 1.0) -> Tensor:
    """Return the distance of each pair exp0(u_i), exp0(a_i); u and a are (P, D), the result (P,)."""
    return distance(u.unsqueeze(1), a.unsqueeze(1), curvature).flatten()


def _arms(x: Tensor, curvature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `distance` needs of tangent vectors (..., L, D), with A = 2 sqrt(c)|x|.

    Returns:
        sinh(A/2) and cosh(A/2), (..., L, 2); sinh A, (..., L, 1); sinh A x / |x|, (..., L, D).
    """
    n = _flat_norm(x)
    e = torch.exp(curvature**0.5 * n)  # by exponentials: the TorchScript exporter has no sinh
    sinh, cosh = (e - 1 / e) / 2, (e + 1 / e) / 2
    full = 2 * sinh * cosh
    return torch.stack([sinh, cosh], -1), full.unsqueeze(-1), x * (full / n).unsqueeze(-1)


def _flat_norm(x: Tensor) -> Tensor:
    """Return `norm` without its last axis: ONNX Runtime takes (L, 1) times a number row by row."""
    return norm(x).squeeze(-1)
