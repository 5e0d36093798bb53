"""The Poincaré ball against geoopt in float64, its laws, and its edges."""

from typing import Any

import geoopt
import pytest
import torch

from ultra_dsmoe.ops import poincare

NORMS = [0.01, 0.1, 0.5, 1.0, 1.5, 2.0]
CURVATURES = [0.25, 1.0, 2.0]


def tangent(n: Any, d: Any, norm: Any, dtype: Any = torch.float32, seed: int = 0) -> Any:
    """``n`` random vectors of a norm."""
    u = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (norm * u / u.norm(dim=-1, keepdim=True)).to(dtype)


def ball(c: Any) -> Any:
    return geoopt.PoincareBall(c=torch.tensor(c, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(3,), (1, 2), (2, 5, 7)])
def test_shapes(shape: Any) -> None:
    u = torch.randn(shape)
    for function in (poincare.exp0, poincare.log0, poincare.project, poincare.clip_norm):
        assert function(0.1 * u).shape == shape
    assert poincare.norm(u).shape == (*shape[:-1], 1)


def test_distance_shapes() -> None:
    assert poincare.distance(torch.randn(2, 3, 5, 4), torch.randn(6, 4)).shape == (2, 3, 5, 6)
    assert poincare.distance(torch.randn(1, 4), torch.randn(1, 4)).shape == (1, 1)
    assert poincare.pair_distance(torch.randn(5, 4), torch.randn(5, 4)).shape == (5,)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("norm", NORMS)
def test_maps_match_geoopt(norm: Any, c: Any) -> None:
    for dtype, atol in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        u = tangent(16, 8, norm / c**0.5, dtype)
        x = ball(c).expmap0(u.double())
        torch.testing.assert_close(poincare.exp0(u, c).double(), x, atol=atol, rtol=0)
        torch.testing.assert_close(poincare.log0(x.to(dtype), c).double(), u.double(), atol=atol, rtol=0)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize(("small", "large"), [(a, b) for a in NORMS for b in NORMS if a <= b])
def test_distance_matches_geoopt(small: Any, large: Any, c: Any) -> None:
    u, a = tangent(9, 8, small / c**0.5, torch.float64), tangent(4, 8, large / c**0.5, torch.float64, seed=1)
    wanted = ball(c).dist(ball(c).expmap0(u).unsqueeze(1), ball(c).expmap0(a))
    torch.testing.assert_close(poincare.distance(u, a, c), wanted, atol=1e-6, rtol=1e-9)
    in_half_the_bits = poincare.distance(u.float(), a.float(), c).double()
    torch.testing.assert_close(in_half_the_bits, wanted, atol=2e-4, rtol=1e-5)
    pairs = poincare.pair_distance(u[:4], a, c)
    torch.testing.assert_close(pairs, wanted[:4].diagonal(), atol=1e-6, rtol=1e-9)


@pytest.mark.parametrize("norm", [n for n in NORMS if n >= 0.1])
def test_distance_of_near_points(norm: Any) -> None:
    """In half the bits, down to a tenth of the norm apart, in any direction, along the ray included."""
    a = tangent(40, 16, norm)
    step = torch.cat([tangent(30, 16, 0.1 * norm, seed=1), -0.1 * a[30:]])
    u = (a + step) / max(1.0, float((a + step).norm(dim=-1).max()) / poincare.MAX_TANGENT_NORM)
    wanted = ball(1.0).dist(ball(1.0).expmap0(u.double()), ball(1.0).expmap0(a.double()))
    rounding = 1e-4 if norm <= 1 else 3e-4  # towards the rim the two hyperbolic sines magnify that of the cosine
    torch.testing.assert_close(poincare.pair_distance(u, a).double(), wanted, rtol=rounding, atol=0)


def test_distance_takes_either_side_first() -> None:
    u, a = tangent(5, 8, 1.2), torch.stack([tangent(7, 8, n, seed=i) for i, n in enumerate((0.3, 1.9))])
    torch.testing.assert_close(poincare.distance(u, a), poincare.distance(a, u).transpose(-1, -2))


def test_distance_takes_maps() -> None:
    u, a = tangent(5, 8, 1.2), tangent(7, 8, 1.9, seed=1)
    torch.testing.assert_close(poincare.distance(u.T, a, dim=-2), poincare.distance(u, a).T)
    torch.testing.assert_close(poincare.clip_norm(u.T, 0.3, dim=0), poincare.clip_norm(u, 0.3).T)


def test_distance_by_hand() -> None:
    """On one ray distances are twice the difference of the tangent norms; across the origin, twice the sum."""
    u, a = torch.tensor([[0.5, 0.0]]), torch.tensor([[1.25, 0.0], [-1.0, 0.0]])
    torch.testing.assert_close(poincare.distance(u, a), torch.tensor([[1.5, 3.0]]))


def test_distance_is_a_metric() -> None:
    u = torch.cat([tangent(6, 8, n, seed=i) for i, n in enumerate(NORMS)])
    d = poincare.distance(u, u)
    torch.testing.assert_close(d, d.T, atol=1e-5, rtol=1e-5)
    assert (d >= 0).all()
    # arcosh(1 + 1e-7) = 4.5e-4 is the floor; the rounding of the cosine adds to it near the rim
    assert d.diagonal()[:24].max() < 5e-3
    assert d.diagonal().max() < 2e-2
    assert (d.unsqueeze(2) + d.unsqueeze(0) - d.unsqueeze(1) > -1e-2).all()  # d(i, j) + d(j, k) >= d(i, k)
    double = poincare.distance(u.double(), u.double()).diagonal()
    torch.testing.assert_close(double, torch.full_like(double, 4.4721e-4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", [1e-4, *NORMS])
def test_log_inverts_exp(norm: Any) -> None:
    u = tangent(32, 16, norm)
    torch.testing.assert_close(poincare.log0(poincare.exp0(u)), u, atol=1e-5, rtol=0)


def test_exp_preserves_angles() -> None:
    """The map is conformal at the origin: angles between tangent vectors survive within five degrees."""
    u, v = tangent(64, 8, 1.7), tangent(64, 8, 0.3, seed=1)
    angle = torch.rad2deg(torch.arccos(torch.cosine_similarity(u, v)))
    mapped = torch.rad2deg(torch.arccos(torch.cosine_similarity(poincare.exp0(u), poincare.exp0(v))))
    assert angle.max() - angle.min() > 60  # or little would be compared
    assert (angle - mapped).abs().max() < 5


def test_flat_limit() -> None:
    """For curvature to 0 the maps are identities and the distance is twice the Euclidean one."""
    u, a = tangent(5, 4, 0.8, torch.float64), tangent(3, 4, 0.6, torch.float64, seed=1)
    torch.testing.assert_close(poincare.exp0(u, 1e-6), u, atol=1e-6, rtol=0)
    torch.testing.assert_close(poincare.log0(u, 1e-6), u, atol=1e-6, rtol=0)
    torch.testing.assert_close(poincare.distance(u, a, 1e-5), 2 * torch.cdist(u, a), atol=1e-3, rtol=0)


def test_clip_and_project() -> None:
    u = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    torch.testing.assert_close(poincare.clip_norm(u), torch.tensor([[1.2, 1.6], [0.3, 0.4]]))
    torch.testing.assert_close(poincare.clip_norm(u, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4]]))
    for c in CURVATURES:
        assert poincare.project(100 * u, c).norm(dim=-1).max() < 1 / c**0.5
        torch.testing.assert_close(poincare.project(u[1:] * 0.5, c), u[1:] * 0.5)
        assert torch.isfinite(poincare.log0(100 * u, c)).all()


def test_edges_by_hand() -> None:
    """Norms have a floor of 1e-6, not its square; `project` leaves a margin of 1e-5, at curvature 1 by default."""
    zero = torch.zeros(2, 3, 5, dtype=torch.float64)
    for dim, shape in ((-1, (2, 3, 1)), (-2, (2, 1, 5))):
        torch.testing.assert_close(poincare.norm(zero, dim), torch.full(shape, 1e-6, dtype=torch.float64))
    torch.testing.assert_close(poincare.norm(zero + 3e-6 / 5**0.5), torch.full((2, 3, 1), 3e-6, dtype=torch.float64))
    far = torch.tensor([[30.0, 40.0]], dtype=torch.float64)
    for c in CURVATURES:
        wanted = torch.tensor([(1 - 1e-5) / c**0.5], dtype=torch.float64)
        torch.testing.assert_close(poincare.project(far, c).norm(dim=-1), wanted, atol=0, rtol=1e-9)
    torch.testing.assert_close(poincare.project(far), poincare.project(far, 1.0))
    torch.testing.assert_close(poincare.exp0(far), poincare.exp0(far, 1.0))
    torch.testing.assert_close(poincare.log0(far / 60), poincare.log0(far / 60, 1.0))


def test_sums_over_either_axis() -> None:
    x = torch.arange(24.0).view(2, 3, 4)
    torch.testing.assert_close(poincare.total(x), torch.stack([x[..., i] for i in range(4)]).sum(0).unsqueeze(-1))
    torch.testing.assert_close(poincare.total(x, -2), (x[:, 0] + x[:, 1] + x[:, 2]).unsqueeze(1))
    torch.testing.assert_close(poincare.total(x, 0), (x[0] + x[1]).unsqueeze(0))


def test_gradcheck() -> None:
    u, a = tangent(3, 4, 0.7, torch.float64), tangent(2, 4, 1.3, torch.float64, seed=1)
    u.requires_grad_()
    a.requires_grad_()
    for function in (poincare.norm, poincare.exp0, poincare.clip_norm, poincare.project):
        assert torch.autograd.gradcheck(function, u)
    assert torch.autograd.gradcheck(lambda x: poincare.log0(poincare.exp0(x) * 0.9, 1.0), u)
    assert torch.autograd.gradcheck(lambda x, y: poincare.distance(x, y, 1.5), (u, a))


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-6, 1.0, 2.0])
def test_gradients_are_finite_at_the_edges(scale: float) -> None:
    u = (scale * tangent(3, 4, 1.0)).requires_grad_()
    twin = u.detach().clone().requires_grad_()
    total = poincare.distance(u, twin).sum() + poincare.log0(poincare.exp0(u)).sum() + poincare.clip_norm(1e8 * u).sum()
    total.backward()
    assert torch.isfinite(u.grad).all()
    assert torch.isfinite(twin.grad).all()
