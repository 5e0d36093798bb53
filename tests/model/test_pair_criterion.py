"""The loss of each phase, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from ultralytics.utils.loss import v8ClassificationLoss

from ultra_dsmoe.losses.image_text import contrastive
from ultra_dsmoe.model.pair_criterion import NAMES, PairCriterion
from ultra_dsmoe.model.pair_options import PairOptions
from ultra_dsmoe.nn.head.pair_classify import ALIGNMENT, FUSION, WARM_UP, PairClassify, PairOutputs

CLASSES = torch.tensor([0, 1, 2, 0])


@pytest.fixture
def head() -> PairClassify:
    """Return a head for three classes."""
    return PairClassify(3, 8, 8)


@pytest.fixture
def outputs() -> PairOutputs:
    """Return what a head may return of four images."""
    torch.manual_seed(0)
    image, vlm, llm = (torch.randn(4, 8, requires_grad=True) for _ in range(3))
    return PairOutputs(torch.randn(4, 3), image, vlm, llm, [torch.randn(4, 3), None, torch.randn(4, 3)])


def batch(turn: list[int] | None = None) -> dict[str, Tensor]:
    """Return the rest of a batch; two images have one text about their picture."""
    groups = torch.tensor([[0, 0], [0, 1], [1, 2], [2, 3]])
    return {"cls": CLASSES, "groups": groups, "turn": torch.tensor(turn or [0, 0, 0, 0])}


def loss_of(head: PairClassify, phase: str, outputs: Any, turn: list[int] | None = None, **options: Any) -> Any:
    head.phase = phase
    total, items = PairCriterion(head, PairOptions(**options), v8ClassificationLoss())(outputs, batch(turn))
    values = list(items.values()) if isinstance(items, dict) else list(items)
    return total, dict(zip(NAMES, values, strict=True))


def test_warm_up_is_the_sum_over_the_encoders_that_are_there(head: PairClassify, outputs: PairOutputs) -> None:
    total, items = loss_of(head, WARM_UP, outputs)
    first, _, last = outputs.warm
    assert first is not None
    assert last is not None
    assert total == pytest.approx(float(F.cross_entropy(first, CLASSES) + F.cross_entropy(last, CLASSES)))
    assert (items["align_vlm"], items["align_llm"]) == (0, 0)


def test_alignment_is_the_sum_over_the_texts(head: PairClassify, outputs: PairOutputs) -> None:
    total, items = loss_of(head, ALIGNMENT, outputs)
    assert outputs.vlm is not None
    assert outputs.llm is not None
    groups = batch()["groups"]
    vlm = float(contrastive(outputs.image, outputs.vlm, head.tau, groups[:, 0]))
    llm = float(contrastive(outputs.image, outputs.llm, head.tau, groups[:, 1]))
    assert (float(items["align_vlm"]), float(items["align_llm"])) == pytest.approx((vlm, llm))
    assert float(total) == pytest.approx(vlm + llm)


def test_alignment_can_keep_the_classes(head: PairClassify, outputs: PairOutputs) -> None:
    without, _ = loss_of(head, ALIGNMENT, outputs)
    with_classes, _ = loss_of(head, ALIGNMENT, outputs, ce=0.5)
    assert outputs.warm[0] is not None
    assert float(with_classes - without) == pytest.approx(float(F.cross_entropy(outputs.warm[0], CLASSES)) / 2)


@pytest.mark.parametrize("turn", [[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
def test_sequential_passes_align_each_image_with_the_text_of_its_turn(
    turn: list[int], head: PairClassify, outputs: PairOutputs
) -> None:
    total, items = loss_of(head, ALIGNMENT, outputs, turn, passes="sequential")
    total.backward()
    assert torch.isfinite(total)
    for name, text, own in (("align_llm", outputs.llm, 0), ("align_vlm", outputs.vlm, 1)):
        assert text is not None
        grad = text.grad if text.grad is not None else torch.zeros(4, 8)
        told = (grad.abs().sum(1) > 0).tolist()
        assert told == [t == own for t in turn]
        assert (items[name] > 0) == (own in turn)


def test_fusion_is_the_cross_entropy(head: PairClassify, outputs: PairOutputs) -> None:
    total, _ = loss_of(head, FUSION, outputs)
    assert float(total) == pytest.approx(float(F.cross_entropy(outputs.logits, CLASSES)))


def test_a_validation_has_the_same_items_in_every_phase(head: PairClassify) -> None:
    logits = torch.randn(4, 3)
    for phase in (WARM_UP, ALIGNMENT, FUSION):
        total, items = loss_of(head, phase, (logits.softmax(1), logits))
        assert float(total) == pytest.approx(float(F.cross_entropy(logits, CLASSES)))
        assert tuple(items) == NAMES
