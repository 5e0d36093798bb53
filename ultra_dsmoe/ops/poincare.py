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


def norm(x: Tensor, dim: int = -1) -> Tensor:
    """Return the Euclidean norm over axis ``dim``, kept, at least 1e-6 and with a finite gradient at zero."""
    return total(x * x, dim).clamp_min(_EPS_NORM**2).sqrt()


def total(x: Tensor, dim: int = -1) -> Tensor:
    """Return the sum over axis ``dim``, kept; over the last but one as a product: ONNX Runtime is slow there."""
    return x.new_ones(1, x.shape[-2]) @ x if dim == -2 else x.sum(dim, keepdim=True)


def clip_norm(u: Tensor, limit: float = MAX_TANGENT_NORM, dim: int = -1) -> Tensor:
    """Shorten tangent vectors, whose components lie along axis ``dim``, to at most ``limit``."""
    return u * (limit / norm(u, dim)).clamp_max(1.0)


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


def distance(u: Tensor, a: Tensor, curvature: float = 1.0, dim: int = -1) -> Tensor:
    """Return the distances between exp0(u) and exp0(a), from the tangent vectors themselves.

    With A = 2 sqrt(c)|u|, B = 2 sqrt(c)|a|: cosh(d sqrt(c)) - 1 = 2 sinh^2((A-B)/2) + sinh A sinh B (1 - cos). Both
    terms come as products of matrices, sinh((A-B)/2) by the addition theorem, so that little is computed per pair.

    Source: [DSMoE] Eq. 12, in the law-of-cosines form.

    Args:
        u: Tangent vectors, (..., L, D); with ``dim=-2`` (..., D, L), the layout of maps.
        a: Tangent vectors, (..., K, D).
        curvature: c > 0.
        dim: Axis of u that holds the components, -1 or -2. As -1 a small exported net is a tenth slower.

    Returns:
        Distances >= 0, (..., L, K); with ``dim=-2`` (..., K, L).
    """
    half_u, full_u, along_u = _arms(u, curvature, dim)
    half_a, full_a, along_a = _arms(a, curvature, -1)
    across = torch.cat([half_a[..., 1:], -half_a[..., :1]], -1) * (2**0.5 / 4)  # the arms are twice what they stand for
    facing = torch.cat([full_a, -along_a], -1) / 4
    points = torch.cat([full_u, along_u], dim)
    if dim == -1:
        radial, angular = half_u @ across.transpose(-1, -2), points @ facing.transpose(-1, -2)
    else:
        radial, angular = across @ half_u, facing @ points
    delta = (radial * radial + angular).clamp_min(_EPS_COSH)
    return torch.log(1 + delta + torch.sqrt(delta * (delta + 2))) / curvature**0.5


def pair_distance(u: Tensor, a: Tensor, curvature: float = 1.0) -> Tensor:
    """Return the distance of each pair exp0(u_i), exp0(a_i); u and a are (P, D), the result (P,)."""
    return distance(u.unsqueeze(1), a.unsqueeze(1), curvature).flatten()


def _arms(x: Tensor, curvature: float, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return twice what `distance` needs of tangent vectors with components along ``dim``, with A = 2 sqrt(c)|x|.

    Returns:
        2 sinh(A/2) and 2 cosh(A/2), two along ``dim``; 2 sinh A, one along ``dim``; 2 sinh A x / |x|, as x.
    """
    n = norm(x, dim)
    e = torch.exp(curvature**0.5 * n)  # by exponentials: the TorchScript exporter has no sinh
    inverse = 1 / e
    sinh, cosh = e - inverse, e + inverse
    full = sinh * cosh
    return torch.cat([sinh, cosh], dim), full, x * (full / n)
