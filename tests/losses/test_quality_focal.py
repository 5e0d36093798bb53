"""Quality focal loss: hand values, its limits, the calibrated gain."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F

from ultra_dsmoe.losses import QualityFocalLoss, quality_focal_loss


def logit(p):
    return math.log(p / (1 - p))


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 4, 7)])
def test_shape(shape):
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
def test_value_by_hand(s, y, alpha, beta, wanted):
    got = quality_focal_loss(torch.tensor([logit(s)]), torch.tensor([y]), alpha, beta)
    assert got.item() == pytest.approx(wanted, rel=1e-5)


def test_defaults():
    x, y = torch.randn(50), torch.rand(50)
    torch.testing.assert_close(quality_focal_loss(x, y), quality_focal_loss(x, y, 0.5, 1.5))


def test_without_focus_it_is_half_the_cross_entropy():
    x, y = torch.randn(50), torch.rand(50)
    bce = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    torch.testing.assert_close(quality_focal_loss(x, y, 0.5, 0.0), 0.5 * bce)


def test_is_zero_on_target_and_nowhere_negative():
    y = torch.rand(20)
    assert quality_focal_loss(torch.logit(y), y).max() < 1e-8
    assert quality_focal_loss(torch.tensor([30.0, -30.0]), torch.tensor([1.0, 0.0])).max() < 1e-8
    assert (quality_focal_loss(5 * torch.randn(200), torch.rand(200)) >= 0).all()


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_gradcheck(beta):
    x = torch.randn(12, dtype=torch.float64, requires_grad=True)
    target = torch.linspace(0, 1, 12, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda t: quality_focal_loss(t, target, 0.3, beta), x)


@pytest.mark.parametrize("beta", [0.5, 1.5])
def test_gradients_are_finite_at_the_edges(beta):
    x = torch.tensor([0.0, 0.0, 100.0, -100.0, 100.0, -100.0], requires_grad=True)
    quality_focal_loss(x, torch.tensor([0.5, 0.0, 1.0, 0.0, 0.0, 1.0]), beta=beta).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad[4] > 0  # a confident mistake is pulled back
    assert x.grad[5] < 0


def test_gain_makes_it_as_large_as_the_cross_entropy():
    loss, x, y = (
        QualityFocalLoss(),
        torch.randn(4, 30, requires_grad=True),
        torch.rand(4, 30) * (torch.rand(4, 30) > 0.8),
    )
    out = loss(x, y)
    bce = F.binary_cross_entropy_with_logits(x, y, reduction="sum")
    assert out.sum().item() == pytest.approx(bce.item(), rel=1e-5)
    gain = loss.gain
    loss(torch.randn(4, 30, requires_grad=True), y)
    assert loss.gain == gain  # once and for all
    torch.testing.assert_close(loss(x, y), gain * quality_focal_loss(x, y))


def test_gain_waits_for_positives_and_for_training():
    loss, x = QualityFocalLoss(), torch.randn(3, 5, requires_grad=True)
    torch.testing.assert_close(loss(x, torch.zeros(3, 5)), 2 * quality_focal_loss(x, torch.zeros(3, 5)))
    assert loss.gain is None
    loss(x.detach(), torch.ones(3, 5))
    assert loss.gain is None
    loss(x, torch.ones(3, 5))
    assert loss.gain is not None


def test_gain_is_continued():
    x, y = torch.randn(3, 5, requires_grad=True), torch.rand(3, 5)
    torch.testing.assert_close(QualityFocalLoss(gain=3.0)(x, y), 3 * quality_focal_loss(x, y))
    other = QualityFocalLoss(0.25, 2.0, 3.0)
    for twin in (other, copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        torch.testing.assert_close(twin(x, y), 3 * quality_focal_loss(x, y, 0.25, 2.0))
