"""The enhanced KL divergence of heads' outputs, and its plain twin of equal strength."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from ultra_dsmoe.distill.enhanced_kl import (
    as_strong,
    bernoulli_kl,
    box_divergence,
    class_divergence,
    confidence,
    foreground,
)

B, NC, A, BINS = 2, 3, 5, 4


def logits(channels: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return scale * torch.randn(B, channels, A, dtype=dtype)


def by_hand(p: float, q: float) -> float:
    """Return KL of two probabilities."""
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


# value ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "q"), [(0.9, 0.2), (0.2, 0.9), (0.01, 0.5), (0.5, 0.5)])
def test_bernoulli_by_hand(p: float, q: float) -> None:
    found = bernoulli_kl(*(torch.logit(torch.tensor(x, dtype=torch.float64)) for x in (p, q)))
    assert found.item() == pytest.approx(by_hand(p, q), abs=1e-12)


def test_bernoulli_agrees_with_torch() -> None:
    p, q = logits(NC, 4), logits(NC, 4)
    expected = torch.distributions.kl_divergence(*(torch.distributions.Bernoulli(logits=x) for x in (p, q)))
    torch.testing.assert_close(bernoulli_kl(p, q), expected)


def test_weights_are_the_teachers_confidence() -> None:
    scores = torch.logit(torch.tensor([[[0.9, 0.04, 0.3], [0.2, 0.01, 0.6]]]))  # one image, two classes, three anchors
    weight = confidence(scores.requires_grad_())
    torch.testing.assert_close(weight, torch.tensor([[0.9, 0.04, 0.6]]))
    assert not weight.requires_grad
    torch.testing.assert_close(foreground(weight), torch.tensor([[0.9, 0.0, 0.6]]))


def test_classes_by_hand() -> None:
    """Two anchors of one class: (.9 against .5) counts .9, (.2 against .4) counts .2."""
    teacher, student = (torch.logit(torch.tensor([[p]], dtype=torch.float64)) for p in ([0.9, 0.2], [0.5, 0.4]))
    weight = confidence(teacher)
    there = [by_hand(0.9, 0.5), by_hand(0.2, 0.4)]
    back = [by_hand(0.5, 0.9), by_hand(0.4, 0.2)]
    for mu in (0.0, 0.25, 1.0):
        each = [(1 - mu) * a + mu * b for a, b in zip(there, back, strict=True)]
        found = class_divergence(teacher, student, weight, 1.0, mu)
        assert found.item() == pytest.approx((0.9 * each[0] + 0.2 * each[1]) / 1.1, abs=1e-9)


def test_classes_are_summed_and_the_temperature_is_made_up_for() -> None:
    teacher, student = logits(NC), logits(NC)
    one = torch.ones(B, A, dtype=torch.float64)
    found = class_divergence(teacher, student, one, 2.0, 0.0)
    torch.testing.assert_close(found, 4 * bernoulli_kl(teacher / 2, student / 2).sum() / (B * A))


def test_boxes_by_hand() -> None:
    """One anchor counts, two bins per side; one side of four differs: (.8, .2) against (.5, .5)."""
    side = {"T": [0.8, 0.2], "S": [0.5, 0.5]}
    teacher = torch.tensor([0.5, 0.5] * 3 + side["T"], dtype=torch.float64).log().view(1, 8, 1).repeat(1, 1, 2)
    student = torch.tensor([0.5, 0.5] * 3 + side["S"], dtype=torch.float64).log().view(1, 8, 1).repeat(1, 1, 2)
    student[..., 1] = 0.1  # an anchor that does not count may say anything
    student[:, -1, 1] = 9
    found = box_divergence(teacher, student, torch.tensor([[0.7, 0.0]], dtype=torch.float64), 1.0)
    assert found.item() == pytest.approx(by_hand(0.8, 0.5) / 4, abs=1e-12)


def test_boxes_agree_with_torch() -> None:
    teacher, student, weight = logits(4 * BINS), logits(4 * BINS), torch.rand(B, A, dtype=torch.float64)
    sides = [x.view(B, 4, BINS, A).transpose(2, 3) / 3 for x in (teacher, student)]
    each = torch.distributions.kl_divergence(*(torch.distributions.Categorical(logits=s) for s in sides)).mean(1)
    torch.testing.assert_close(
        box_divergence(teacher, student, weight, 3.0), 9 * (weight * each).sum() / weight.sum(), rtol=1e-6, atol=0
    )


# limits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 30])
@pytest.mark.parametrize("mu", [0.0, 0.5, 1.0])
def test_equal_heads_cost_nothing_and_unequal_ones_something(scale: int, mu: float) -> None:
    for dtype in (torch.float32, torch.float64):
        classes, boxes = logits(NC, scale, dtype), logits(4 * BINS, scale, dtype)
        weight = confidence(classes)
        assert class_divergence(classes, classes.clone(), weight, 2.0, mu) == 0
        assert box_divergence(boxes, boxes.clone(), weight, 1.0) == 0
        assert class_divergence(classes, classes + 0.1, weight, 2.0, mu) > 0
        assert box_divergence(boxes, boxes + 0.1 * torch.randn_like(boxes), weight, 1.0) > 0


def test_every_element_is_positive() -> None:
    """In half a million pairs, near ones and those whose sigmoids round to 0 or 1 among them."""
    p = 30 * torch.randn(500_000, dtype=torch.float64)
    for step in (1e-3, 1.0, 100.0):
        q = p + step * (torch.rand_like(p) + 0.1) * torch.randn_like(p).sign()
        visible = torch.maximum(-p.abs(), -q.abs()) > -25  # beyond, the probabilities are equal to all digits
        found = bernoulli_kl(p, q)
        assert found.min() > -1e-12
        assert (found[visible] > 0).all()
    assert bernoulli_kl(p.float(), (p + 1e-3).float()).min() > -1e-6


def test_a_hot_temperature_is_a_mean_squared_difference() -> None:
    """To second order in the logits: half the variance, 1/4, times the square, in both directions."""
    teacher, student = logits(NC), logits(NC)
    one = torch.ones(B, A, dtype=torch.float64)
    expected = (teacher - student).square().sum() / 8 / (B * A)
    for mu in (0.0, 1.0):
        torch.testing.assert_close(class_divergence(teacher, student, one, 1e3, mu), expected, rtol=1e-2, atol=0)


def test_no_anchor_that_counts_is_no_loss() -> None:
    boxes = logits(4 * BINS)
    found = box_divergence(boxes, logits(4 * BINS), torch.zeros(B, A, dtype=torch.float64), 1.0)
    assert found == 0


# gradient -------------------------------------------------------------------------------------------------------------


def test_gradients_are_right() -> None:
    weight = torch.rand(B, A, dtype=torch.float64)
    classes, boxes = logits(NC), logits(4 * BINS)
    assert torch.autograd.gradcheck(
        partial(class_divergence, classes, weight=weight, temperature=2.0, mu=0.5), (logits(NC).requires_grad_(),)
    )
    assert torch.autograd.gradcheck(
        partial(box_divergence, boxes, weight=weight, temperature=2.0), (logits(4 * BINS).requires_grad_(),)
    )


@pytest.mark.parametrize("scale", [30, 1e4])
def test_gradients_are_finite_at_any_logits(scale: float) -> None:
    for opposed in (False, True):
        for channels, loss in (
            (NC, partial(class_divergence, temperature=0.5, mu=0.5)),
            (4 * BINS, partial(box_divergence, temperature=0.5)),
        ):
            teacher = logits(channels, scale, torch.float32)
            student = (-teacher if opposed else logits(channels, scale, torch.float32)).requires_grad_()
            found = loss(teacher, student, weight=torch.ones(B, A))
            found.backward()
            assert torch.isfinite(found)
            assert torch.isfinite(student.grad).all()
            assert student.grad.abs().sum() > 0


# strength -------------------------------------------------------------------------------------------------------------


def crowded(scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores of 500 anchors of which the teacher is sure of four, as on a real image."""
    teacher, student = torch.randn(B, NC, 500) - 6, scale * torch.randn(B, NC, 500) - 6
    teacher[..., :4] += 9
    return teacher, student


def test_the_plain_one_pulls_as_much() -> None:
    teacher, student = crowded()
    weight = confidence(teacher)
    enhanced = partial(class_divergence, teacher, weight=weight, temperature=2.0, mu=0.5)
    plain = partial(class_divergence, teacher, weight=torch.ones_like(weight), temperature=2.0, mu=0.0)

    def pull(loss: object) -> torch.Tensor:
        at = student.clone().requires_grad_()
        return torch.autograd.grad(loss(at), at)[0]

    assert pull(enhanced).norm() > 2 * pull(plain).norm(), "nothing would be proven"
    matched = pull(partial(as_strong, plain, enhanced))
    torch.testing.assert_close(matched.norm(), pull(enhanced).norm())
    torch.testing.assert_close(torch.cosine_similarity(matched.flatten(), pull(plain).flatten(), 0), torch.tensor(1.0))


def test_equal_heads_have_no_strength_to_match() -> None:
    teacher, _ = crowded()
    one = torch.ones(B, 500)
    plain = partial(class_divergence, teacher, weight=one, temperature=1.0, mu=0.0)
    student = teacher.clone().requires_grad_()
    found = as_strong(plain, plain, student)
    found.backward()
    assert found == 0
    assert torch.isfinite(student.grad).all()
