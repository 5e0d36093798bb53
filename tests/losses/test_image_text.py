"""Contrastive loss and self-similarity: by hand, limits, equal texts, gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ultra_dsmoe.losses import contrastive, self_similarity

ALL_DIFFERENT = torch.arange(4)


def pairs(b: int = 4, c: int = 6) -> Any:
    return torch.randn(b, c), torch.randn(b, c)


def reference(image: Any, text: Any, tau: float, groups: Any) -> float:
    """Equations 3 and 4 number by number."""
    b = len(image)
    s = [[float(F.cosine_similarity(i, t, dim=0)) / tau for t in text] for i in image]
    total = 0.0
    for one in range(b):
        mates = [o for o in range(b) if groups[o] == groups[one]]
        to_text = [math.exp(s[one][o]) / sum(math.exp(v) for v in s[one]) for o in range(b)]
        to_image = [math.exp(s[o][one]) / sum(math.exp(s[p][one]) for p in range(b)) for o in range(b)]
        total -= sum((math.log(to_text[m]) + math.log(to_image[m])) / len(mates) for m in mates)
    return total / (2 * b)


@pytest.mark.parametrize("groups", [[0, 1, 2, 3], [0, 0, 2, 3], [5, 1, 5, 5], [7, 7, 7, 7]])
@pytest.mark.parametrize("tau", [0.07, 0.5])
def test_value(groups: list[int], tau: float) -> None:
    image, text = pairs()
    got = contrastive(image, text, tau, torch.tensor(groups))
    assert got.item() == pytest.approx(reference(image, text, tau, groups), rel=1e-4)
    assert got.shape == ()


def test_two_pairs_by_hand() -> None:
    eye = torch.eye(2)
    # Cosines 1 and 0, over tau 0.5: -log(e^2 / (e^2 + 1)) in both directions.
    wanted = math.log(1 + math.exp(-2))
    assert contrastive(3 * eye, 0.1 * eye, 0.5, torch.arange(2)).item() == pytest.approx(wanted)


def test_it_is_the_cross_entropy_of_both_directions_where_no_text_is_twice() -> None:
    image, text = pairs()
    s = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T / 0.1
    wanted = (F.cross_entropy(s, ALL_DIFFERENT) + F.cross_entropy(s.T, ALL_DIFFERENT)) / 2
    torch.testing.assert_close(contrastive(image, text, 0.1, ALL_DIFFERENT), wanted)


def test_pairs_that_match_cost_nothing_and_strangers_the_logarithm_of_the_batch() -> None:
    eye = torch.eye(4)
    assert contrastive(eye, eye, 0.01, ALL_DIFFERENT).item() == pytest.approx(0, abs=1e-6)
    assert contrastive(eye, torch.ones(4, 4), 0.07, ALL_DIFFERENT).item() == pytest.approx(math.log(4))


def test_equal_texts_share() -> None:
    """Targets of a row sum to 1: a batch of one text costs the logarithm of its size, the least that it can."""
    same = torch.randn(1, 6).expand(4, 6)
    assert contrastive(same, same, 0.07, torch.zeros(4, dtype=torch.long)).item() == pytest.approx(math.log(4))
    # Images and texts of two pairs that are both the same: each finds its two, and shares them.
    twice = torch.eye(2).repeat_interleave(2, 0)
    shared = contrastive(twice, twice, 0.01, torch.tensor([0, 0, 1, 1])).item()
    assert shared == pytest.approx(math.log(2), abs=1e-5)
    image = twice.clone().requires_grad_()
    contrastive(image, twice, 0.1, torch.tensor([0, 0, 1, 1])).backward()
    apart = twice.clone().requires_grad_()
    contrastive(apart, twice, 0.1, ALL_DIFFERENT).backward()
    torch.testing.assert_close(image.grad[0], image.grad[1])  # nothing tells duplicates apart
    assert image.grad.abs().max() < 1e-3


def test_the_number_of_a_group_does_not_matter() -> None:
    image, text = pairs()
    a, b = (contrastive(image, text, 0.1, torch.tensor(g)) for g in ([0, 0, 1, 2], [9, 9, -3, 4]))
    assert torch.equal(a, b)


def test_one_pair_is_nothing_to_choose_from() -> None:
    image, text = (t.requires_grad_() for t in pairs(1))
    tau = torch.tensor([0.07], requires_grad=True)
    loss = contrastive(image, text, tau, torch.zeros(1, dtype=torch.long))
    assert loss.item() == 0
    loss.backward()
    for t in (image, text, tau):
        assert not t.grad.any()


def test_gradients() -> None:
    image, text = (t.requires_grad_() for t in pairs())
    tau = torch.tensor([0.2], requires_grad=True)
    groups = torch.tensor([0, 1, 1, 2])
    contrastive(image, text, tau, groups).backward()
    for t in (image, text, tau):
        assert torch.isfinite(t.grad).all()
        direction, step = torch.randn_like(t), 1e-3
        with torch.no_grad():
            ends = []
            for s in (step, -step):
                moved = [u + s * direction if u is t else u for u in (image, text, tau)]
                ends.append(contrastive(moved[0], moved[1], moved[2], groups).item())
        assert (t.grad * direction).sum().item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=2e-2, abs=1e-3)


def test_half_precision_and_vectors_without_length() -> None:
    image, text = (300 * t.half() for t in pairs())  # whose products overflow
    got = contrastive(image, text, 0.01, ALL_DIFFERENT)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, contrastive(image.float(), text.float(), 0.01, ALL_DIFFERENT))
    zero = torch.zeros(4, 6, requires_grad=True)
    contrastive(zero, text, 0.01, ALL_DIFFERENT).backward()
    assert torch.isfinite(zero.grad).all()


def test_self_similarity_by_hand() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    vlm = torch.tensor([[3.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
    llm = torch.tensor([[0.0, 1.0], [0.0, -4.0], [0.0, 1.0]])
    wanted = torch.tensor([0.5, -1.0, math.sqrt(0.5)])
    torch.testing.assert_close(self_similarity(image, vlm, llm), wanted)
    assert self_similarity(*(t.half() for t in (image, vlm, llm))).dtype == torch.float32
    assert self_similarity(image[:1], vlm[:1], llm[:1]).shape == (1,)
    assert torch.isfinite(self_similarity(torch.zeros(3, 2), vlm, llm)).all()
