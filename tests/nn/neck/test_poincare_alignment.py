"""Image vectors and class anchors on the ball: against the layers they are written out from, by hand, at the edges."""

from __future__ import annotations

import copy
import math
from typing import Any

import geoopt
import pytest
import torch
import torch.nn.functional as F
from block_checks import shake

from ultra_dsmoe.nn.neck.poincare_alignment import RADIUS_RANGE, PoincareAlignment
from ultra_dsmoe.ops import poincare

C, TEXT, K = 12, 20, 4


def make(nc: int = K, **kwargs: Any) -> PoincareAlignment:
    return PoincareAlignment(C, TEXT, nc, **kwargs)


def text(nc: int = K) -> torch.Tensor:
    return torch.randn(nc, TEXT) + 2  # vectors of a language model share a large mean


def test_image_tangent_is_norm_and_linear_layer_position_by_position() -> None:
    block, x = shake(make(width=8), 0.3), torch.randn(2, C, 3, 5)
    rows = x.flatten(2).transpose(1, 2)  # (B, L, C)
    wanted = block.log_scale.exp() * block.image(block.norm(rows))
    assert wanted.norm(dim=-1).max() < poincare.MAX_TANGENT_NORM, "nothing to clip here"
    got = block.image_tangent(x)
    assert got.shape == (2, 8, 15)
    torch.testing.assert_close(got.transpose(1, 2), wanted, atol=1e-5, rtol=1e-4)


def test_image_vectors_start_well_inside_and_are_clipped() -> None:
    block, x = make(), 100 * torch.randn(2, C, 6, 6)
    assert block.image_tangent(x).norm(dim=1).max() < 1
    assert block.log_scale.exp().item() == pytest.approx(0.15)
    with torch.no_grad():
        block.log_scale.fill_(math.log(50.0))
    norms = block.image_tangent(x).norm(dim=1)
    torch.testing.assert_close(norms, torch.full_like(norms, 2.0))


def test_anchors_by_hand() -> None:
    block, t = make(), text()
    with torch.no_grad():
        block.radius.copy_(torch.tensor([0.5, 1.0, 0.01, 9.0]))
    (anchors,) = block.text_constants(t)
    centred = F.normalize(t - t.mean(0), dim=-1)
    direction = F.normalize(block.anchor(centred), dim=-1)
    torch.testing.assert_close(anchors, torch.tensor([[0.5], [1.0], [0.05], [2.0]]) * direction)
    assert RADIUS_RANGE == (0.05, 2.0)


def test_what_all_descriptions_share_does_not_matter() -> None:
    block, t = make(), text()
    torch.testing.assert_close(block.text_constants(t + 5)[0], block.text_constants(t)[0], atol=1e-4, rtol=0)


def test_a_single_class_keeps_its_direction() -> None:
    block, t = make(nc=1), text(1)
    (anchor,) = block.text_constants(t)
    torch.testing.assert_close(anchor, F.normalize(block.anchor(F.normalize(t, dim=-1)), dim=-1))
    two = make(nc=2)
    pair = two.text_constants(text(2))[0]  # two centred vectors are opposite
    torch.testing.assert_close(pair[0], -pair[1])


def test_logits_are_distances_over_the_temperature() -> None:
    block = make(tau=0.5)
    u, a = 0.7 * torch.randn(2, C, 6), 0.5 * torch.randn(K, C)
    ball = geoopt.PoincareBall(c=1.0)
    points, anchors = ball.expmap0(u.transpose(1, 2).double()), ball.expmap0(a.double())
    wanted = -ball.dist(points.unsqueeze(1), anchors.view(1, K, 1, C)) / 0.5
    got = block.logits(u, a)
    assert got.shape == (2, K, 6)
    torch.testing.assert_close(got.double(), wanted, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(block.logits(u, a, 3.0), 3 * got)
    torch.testing.assert_close(make().logits(u, a), block.logits(u, a) * 0.5 / 0.2)  # 0.2 by default


def test_without_the_ball_logits_are_cosines() -> None:
    block = make(hyperbolic=False, tau=0.5)
    u, a = torch.randn(2, C, 6), torch.randn(K, C)
    wanted = torch.cosine_similarity(u.unsqueeze(1), a.view(1, K, C, 1), dim=2) / 0.5
    torch.testing.assert_close(block.logits(u, a), wanted)
    torch.testing.assert_close(block.logits(4 * u, a / 3), wanted)
    torch.testing.assert_close(block.logits(u, a, 2.0), 2 * wanted)


@pytest.mark.parametrize(("tau", "used"), [(1e-4, 0.02), (0.3, 0.3), (100.0, 5.0)])
def test_the_temperature_keeps_within_bounds(tau: float, used: float) -> None:
    u, a = torch.randn(1, C, 3), torch.randn(K, C)
    torch.testing.assert_close(make(tau=tau).logits(u, a), make(tau=1.0).logits(u, a) / used, rtol=1e-4, atol=1e-5)


def test_everything_runs_in_full_precision() -> None:
    block, x, t = make(), torch.randn(1, C, 4, 4), text()
    wanted = block.logits(block.image_tangent(x), block.text_constants(t)[0])
    half = copy.deepcopy(block).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (anchors,) = block.text_constants(t)
    assert anchors.dtype == torch.float32
    torch.testing.assert_close(anchors, block.text_constants(t)[0], atol=1e-6, rtol=0)
    got = half.logits(half.image_tangent(x.half()), half.text_constants(t.half())[0])
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, wanted, atol=0.1, rtol=0)


def test_gradients_reach_all_and_are_finite_for_equal_texts() -> None:
    block, x, t = make(), torch.randn(2, C, 3, 3).requires_grad_(), text().requires_grad_()
    block.logits(block.image_tangent(x), block.text_constants(t)[0]).square().sum().backward()
    for name, p in (*block.named_parameters(), ("x", x), ("t", t)):
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().max() > 0, name
    same = torch.ones(K, TEXT, requires_grad=True)
    (anchors,) = block.text_constants(same)
    block.logits(block.image_tangent(x), anchors).sum().backward()
    assert torch.isfinite(same.grad).all()
    assert torch.isfinite(anchors).all()


def test_width_of_the_ball() -> None:
    assert make().image.out_features == make().anchor.out_features == C
    assert make(width=5).image_tangent(torch.randn(1, C, 2, 2)).shape == (1, 5, 4)
    assert make(width=5).text_constants(text())[0].shape == (K, 5)
    assert set(make().fast_parameters) <= {name for name, _ in make().named_parameters()}
