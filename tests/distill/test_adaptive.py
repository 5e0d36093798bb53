"""Adaptive weights: by hand, bounded whatever the losses do, kept exactly."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch

from ultra_dsmoe.distill import AdaptiveWeights
from ultra_dsmoe.distill.adaptive import ema_weights, paper_weights

NAMES = ("fg", "att", "glob", "cls", "box")


def feed(adaptive: AdaptiveWeights, *steps: list[float]) -> list[float]:
    for losses in steps:
        adaptive.add({name: torch.tensor(v) for name, v in zip(adaptive.names, losses, strict=True)})
    adaptive.end_epoch()
    return adaptive.weights


def test_ema_by_hand() -> None:
    got = ema_weights([1.0, 1.0], [2.0, 1.0], [2.0, 4.0])  # rho 1 and 1/4
    s = [math.exp(r) / (math.e + math.exp(0.25)) for r in (1, 0.25)]
    assert got == pytest.approx([0.9 + 0.2 * s[0], 0.9 + 0.2 * s[1]])
    assert got[0] > got[1], "the loss that fell less gets more weight"
    assert sum(got) == pytest.approx(2)


def test_ema_clips_what_exploded_and_starts_from_zero() -> None:
    assert ema_weights([1.0, 1.0], [1e9, 1.0], [1.0, 1.0]) == ema_weights([1.0, 1.0], [3.0, 1.0], [1.0, 1.0])
    assert all(map(math.isfinite, ema_weights([1.0, 1.0], [1.0, 0.0], [0.0, 0.0])))


def test_ema_of_terms_that_began_at_next_to_nothing() -> None:
    """Below 1e-12 a first epoch counts as 1e-12."""
    for start in (0.0, 1e-13, 1e-12):
        assert ema_weights([1, 1], [2e-12, 1.0], [start, 1.0]) == pytest.approx(ema_weights([1, 1], [2, 1], [1, 1]))


def test_paper_by_hand() -> None:
    got = paper_weights([1.0, 1.0], [1.0, 0.0])
    assert got == pytest.approx([2 * math.e / (math.e + 1), 2 / (math.e + 1)])
    assert paper_weights([1.0, 1.0], [1000.0, 0.0]) == pytest.approx([2.0, 0.05])  # without overflow


def test_paper_as_printed_would_diverge() -> None:
    """Constant losses drive the weights apart; the bounds hold them."""
    weights = [1.0] * 5
    for _ in range(6):
        weights = paper_weights(weights, [4, 0.1, 0.5, 2, 1])
    assert weights == pytest.approx([5.0, 0.05, 0.05, 0.05, 0.05], abs=0.02)


@pytest.mark.parametrize("seed", range(40))
def test_ema_is_bounded_for_arbitrary_losses(seed: int) -> None:
    draw = random.Random(seed)
    adaptive = AdaptiveWeights(NAMES)
    for _ in range(300):
        weights = feed(adaptive, [10 ** draw.uniform(-12, 12) for _ in NAMES])
        assert all(math.isfinite(w) and w > 0 for w in weights)
        assert sum(weights) == pytest.approx(5)
        assert max(weights) / min(weights) <= 15 + 1e-9


@pytest.mark.parametrize("seed", range(10))
def test_paper_is_bounded_for_arbitrary_losses(seed: int) -> None:
    draw = random.Random(seed)
    adaptive = AdaptiveWeights(NAMES, "paper")
    for _ in range(300):
        assert all(0.05 <= w <= 5 for w in feed(adaptive, [10 ** draw.uniform(-12, 12) for _ in NAMES]))


def test_one_loss_that_never_falls_is_bounded_too() -> None:
    adaptive = AdaptiveWeights(NAMES)
    for epoch in range(300):
        weights = feed(adaptive, [1.0, *[0.9**epoch] * 4])
    assert weights[0] / weights[1] <= 15
    assert weights[0] > 1.5 > 1 > weights[1]


def test_weights_start_at_one_and_move_at_the_epochs_end() -> None:
    adaptive = AdaptiveWeights(("a", "b"))
    adaptive.add({"a": torch.tensor(1.0), "b": torch.tensor(1.0)})
    assert adaptive.weights == [1, 1]
    adaptive.end_epoch()
    assert adaptive.weights == [1, 1], "the first epoch is its own measure"
    assert feed(adaptive, [1.0, 0.0], [1.0, 1.0]) == pytest.approx(ema_weights([1, 1], [1.0, 0.5], [1.0, 1.0]))
    assert adaptive["a"] == adaptive.weights[0]


def test_none_stays() -> None:
    adaptive = AdaptiveWeights(("a", "b"), "none")
    feed(adaptive, [1.0, 1.0])
    assert feed(adaptive, [9.0, 0.1]) == [1, 1]


def test_an_epoch_without_steps_or_with_infinite_losses_changes_nothing() -> None:
    adaptive = AdaptiveWeights(("a", "b"))
    feed(adaptive, [1.0, 1.0])
    before = list(feed(adaptive, [1.0, 0.1]))
    assert feed(adaptive) == before
    assert feed(adaptive, [math.nan, 1.0]) == before
    assert feed(adaptive, [math.inf, 1.0]) == before
    assert feed(adaptive, [1.0, 0.1]) != before, "and the next one is counted again"


@pytest.mark.parametrize("rule", ["ema", "paper", "none"])
def test_a_checkpoint_keeps_everything(rule: str) -> None:
    adaptive = AdaptiveWeights(NAMES, rule)
    for epoch in range(3):
        feed(adaptive, [1 / (n + epoch + 1) for n in range(5)])
    state = json.loads(json.dumps(adaptive.state()))  # plain values
    restored = AdaptiveWeights.from_state(state)
    assert restored.state() == adaptive.state()
    assert feed(restored, [0.1] * 5) == feed(adaptive, [0.1] * 5)


def test_a_single_term_keeps_its_weight() -> None:
    adaptive = AdaptiveWeights(("a",))
    assert feed(adaptive, [1.0]) == feed(adaptive, [0.1]) == [1]


def test_losses_in_half_precision_are_summed_in_fp32() -> None:
    """In half precision 2048 + 1 is 2048."""
    adaptive = AdaptiveWeights(("a", "b"))
    for value in (2048.0, 1.0, 1.0):
        adaptive.add({name: torch.tensor(value).half() for name in "ab"})
    adaptive.end_epoch()
    assert adaptive.state()["first"] == pytest.approx([2050 / 3] * 2)


def test_workers_agree_on_the_mean_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_reduce(sums: torch.Tensor) -> None:  # another worker: three steps, losses of 5
        sums += torch.tensor([15.0, 15.0, 3.0])

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    adaptive = AdaptiveWeights(("a", "b"))
    feed(adaptive, [1.0, 9.0])
    assert adaptive.state()["first"] == [4, 6]


def test_gradients_are_not_kept() -> None:
    adaptive = AdaptiveWeights(("a", "b"))
    x = torch.ones((), requires_grad=True)
    adaptive.add({"a": x * 2, "b": x})
    assert not adaptive._sums.requires_grad
