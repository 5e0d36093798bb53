"""Quality focal loss: hand values, its limits, its calibration on the positives."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ultra_dsmoe.losses import QualityFocalLoss, quality_focal_loss


def logit(p: Any) -> Any:
    return math.log(p / (1 - p))


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 4, 7)])
def test_shape(shape: Any) -> None:
    target = torch.rand(shape)
    assert quality_focal_loss(torch.randn(shape), target).shape == shape
    assert QualityFocalLoss()(torch.randn(shape), target).shape == shape


@pytest.mark.parametrize(
    ("s", "y", "alpha", "beta", "wanted"),
    [
        (0.5, 1.0, 0.5, 1.5, 0.5 * 0.5**1.5 * math.log(2)),
        (0.8, 0.0, 0.5, 1.5, 0.5 * 0.8**1.5 * -math.log(0.2)),
        (0.8, 0.0, 0.25, 2.0, 0.75 * 0.8**2 * -math.log(0.2)),
        (0.3, 1.0, 0.25, 2.0, 0.25 * 0.7**2 * -math.log(0.3)),
        (0.2, 0.7, 0.5, 1.5, 0.5 * 0.5**1.5 * -(0.3 * math.log(0.8) + 0.7 * math.log(0.2))),
        (0.2, 0.7, 0.25, 1.0, (0.7 * 0.25 + 0.3 * 0.75) * 0.5 * -(0.3 * math.log(0.8) + 0.7 * math.log(0.2))),
    ],
)
def test_value_by_hand(s: float, y: float, alpha: float, beta: float, wanted: Any) -> None:
    got = quality_focal_loss(torch.tensor([logit(s)]), torch.tensor([y]), alpha, beta)
    assert got.item() == pytest.approx(wanted, rel=1e-5)


def test_defaults() -> None:
    x, y = torch.randn(50), torch.rand(50)
    torch.testing.assert_close(quality_focal_loss(x, y), quality_focal_loss(x, y, 0.5, 0.5))


def test_without_focus_it_is_half_the_cross_entropy() -> None:
    x, y = torch.randn(50), torch.rand(50)
    bce = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    torch.testing.assert_close(quality_focal_loss(x, y, 0.5, 0.0), 0.5 * bce)


def test_is_zero_on_target_and_nowhere_negative() -> None:
    y = torch.rand(20)
    assert quality_focal_loss(torch.logit(y), y).max() < 0.5 * 1e-4**0.5  # y has entropy, the weight its floor
    assert quality_focal_loss(torch.tensor([30.0, -30.0]), torch.tensor([1.0, 0.0])).max() < 1e-8
    assert (quality_focal_loss(5 * torch.randn(200), torch.rand(200)) >= 0).all()


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_gradcheck(beta: float) -> None:
    x = torch.randn(12, dtype=torch.float64, requires_grad=True)
    target = torch.linspace(0, 1, 12, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda t: quality_focal_loss(t, target, 0.3, beta), x)


@pytest.mark.parametrize("beta", [0.5, 1.5])
def test_gradients_are_finite_at_the_edges(beta: float) -> None:
    x = torch.tensor([0.0, 0.0, 100.0, -100.0, 100.0, -100.0], requires_grad=True)
    quality_focal_loss(x, torch.tensor([0.5, 0.0, 1.0, 0.0, 0.0, 1.0]), beta=beta).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad[4] > 0  # a confident mistake is pulled back
    assert x.grad[5] < 0


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_positives_weigh_what_they_weigh_in_cross_entropy(share: float) -> None:
    targets = torch.rand(4, 30) * (torch.rand(4, 30) < share)
    logits = torch.randn(4, 30) - 3
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    out, known = QualityFocalLoss()(logits, targets), targets > 0
    assert out[known].sum().item() == pytest.approx(bce[known].sum().item(), rel=1e-4)
    assert out[~known].sum() <= bce[~known].sum()  # and easy negatives less


def test_without_positives_the_sum_is_that_of_cross_entropy() -> None:
    logits, targets = torch.randn(4, 30) - 1, torch.zeros(4, 30)
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    assert QualityFocalLoss()(logits, targets).sum().item() == pytest.approx(bce.item(), rel=1e-4)


def test_scale_is_bounded_on_positives_that_are_all_but_learned() -> None:
    targets = torch.full((4, 30), 0.5)
    logits = torch.full((4, 30), 1e-4)
    plain = quality_focal_loss(logits, targets)
    torch.testing.assert_close(QualityFocalLoss()(logits, targets), 50 * plain)


def test_focusing_shares_the_loss_out() -> None:
    x, y = torch.randn(3, 5, requires_grad=True), torch.rand(3, 5)
    out, plain = QualityFocalLoss(0.25, 2.0)(x, y), quality_focal_loss(x, y, 0.25, 2.0)
    torch.testing.assert_close(out / out.sum(), plain / plain.sum())
    scale = (out / plain)[0, 0].detach()
    got = torch.autograd.grad(out.sum(), x, retain_graph=True)[0]
    torch.testing.assert_close(got, scale * torch.autograd.grad(plain.sum(), x)[0])  # the scale is a constant


def test_a_batch_that_costs_nothing_is_no_division_by_zero() -> None:
    logits = torch.full((4, 30), -200.0, requires_grad=True)
    out = QualityFocalLoss()(logits, torch.zeros(4, 30))
    out.sum().backward()
    assert out.sum() == 0
    assert torch.isfinite(logits.grad).all()


def test_targets_in_half_precision_are_weighed_in_full() -> None:
    x, y = torch.randn(4, 30), torch.rand(4, 30).half()
    torch.testing.assert_close(QualityFocalLoss(0.3)(x, y), QualityFocalLoss(0.3)(x, y.float()), rtol=1e-6, atol=0)


def test_half_precision_is_summed_in_fp32() -> None:
    x, y = torch.full((64, 64), -9.0).half(), torch.zeros(64, 64).half()
    out = QualityFocalLoss()(x, y)
    assert out.dtype == torch.float32
    assert torch.isfinite(out).all()
    assert out.sum() > 0
