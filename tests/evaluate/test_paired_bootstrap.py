"""Paired evaluation: changes against the first pass, on the same resamples, and how they are written."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest

from ultra_dsmoe.evaluate.bootstrap import interval, mean_ap, replicates, resamples
from ultra_dsmoe.evaluate.class_stats import ClassStats
from ultra_dsmoe.evaluate.evaluation import ImageStats
from ultra_dsmoe.evaluate.measures import BOXES, CLASSES, measures_of
from ultra_dsmoe.evaluate.paired_bootstrap import (
    CSV_HEAD,
    HEAD,
    Effect,
    PairedBootstrap,
    base_cells,
    base_csv_cells,
)

IMAGES, BOOT, SEED = 12, 200, 5
EFFECT = Effect((40.0, 20.5), (-2.5, 1.0), ((-4.0, -1.0), (-0.25, 2.0)))


def made_up(share: float, files: list[str] | None = None) -> ImageStats:
    """Return matches in which a share of the detections is right, hard thresholds less often."""
    rng = np.random.default_rng(0)
    classes = [np.array([0.0, 1.0]) for _ in range(IMAGES)]
    tp = [rng.random((2, 1)) < share * np.linspace(1, 0.3, 10) for _ in range(IMAGES)]
    files = files or [f"{i}.png" for i in range(IMAGES)]
    return ImageStats(files, tp, [rng.random(2) for _ in range(IMAGES)], classes, classes)


class Passes:
    """Stands in for an `Evaluation`: gives one pass after the other and keeps the switches."""

    def __init__(self, *stats: ImageStats) -> None:
        self.left = list(stats)
        self.switches: list[AbstractContextManager[Any] | None] = []

    def run(self, switch: AbstractContextManager[Any] | None = None) -> ImageStats:
        self.switches.append(switch)
        return self.left.pop(0)


def paired(*stats: ImageStats, switch: Any = None) -> PairedBootstrap:
    return PairedBootstrap(Passes(*stats), BOOT, SEED, switch)  # type: ignore[arg-type]


def test_an_equal_pass_changes_nothing() -> None:
    pairs = paired(made_up(0.8), made_up(0.8))
    effect = pairs.effect(nullcontext())
    assert effect == Effect(pairs.base, (0.0, 0.0), ((0.0, 0.0), (0.0, 0.0)))
    assert 0 < pairs.base[1] < pairs.base[0] < 100


def test_a_worse_pass_by_the_parts() -> None:
    before, after = made_up(0.9), made_up(0.4)
    effect = paired(before, after).effect(nullcontext())
    counts = resamples(IMAGES, BOOT, SEED)
    spread = replicates(after, counts) - replicates(before, counts)
    assert effect.score == pytest.approx(100 * mean_ap(after))
    assert effect.change == pytest.approx(100 * (mean_ap(after) - mean_ap(before)))
    assert effect.change[0] < 0
    for i, (low, high) in enumerate(effect.ranges):
        assert (low, high) == pytest.approx([100 * end for end in interval(spread[:, i])])
        assert low < effect.change[i] < high


def test_switches_reach_the_passes_and_the_note_names_the_resamples() -> None:
    passes, watching, changing = Passes(made_up(0.9), made_up(0.4)), nullcontext(), nullcontext()
    pairs = PairedBootstrap(passes, BOOT, SEED, watching)  # type: ignore[arg-type]
    pairs.effect(changing)
    assert passes.switches[0] is watching
    assert passes.switches[1] is changing
    assert "200 paired bootstrap resamples of the 12 images (seed 5)" in pairs.about


def test_images_in_another_order_cannot_be_paired() -> None:
    pairs = paired(made_up(0.9), made_up(0.9, [f"{i}.png" for i in reversed(range(IMAGES))]))
    with pytest.raises(AssertionError, match="the order of images changed"):
        pairs.effect(nullcontext())


def test_cells_stand_below_their_heads() -> None:
    assert dict(zip(HEAD[::2], EFFECT.cells()[::2], strict=True)) == {"mAP50": "40.00", "mAP50-95": "20.50"}
    assert EFFECT.cells()[1::2] == ["-2.50 [-4.00, -1.00]", "+1.00 [-0.25, +2.00]"]
    assert base_cells((42.5, 19.5)) == ["42.50", "", "19.50", ""]
    assert len(HEAD) == len(base_cells((0, 0))) == 2 * len(BOXES.names)


def test_csv_cells_stand_below_their_heads() -> None:
    found = dict(zip(CSV_HEAD, map(float, EFFECT.csv_cells()), strict=True))
    assert (found["map50"], found["map50_change"], found["map50_low"], found["map50_high"]) == (40, -2.5, -4, -1)
    assert (found["map50_95"], found["map50_95_change"]) == (20.5, 1)
    base = dict(zip(CSV_HEAD, base_csv_cells((42.5, 19.5)), strict=True))
    assert {k: v for k, v in base.items() if v} == {"map50": "42.5000", "map50_95": "19.5000"}


def test_classifiers_are_paired_in_macro_f1_and_accuracy() -> None:
    target = np.arange(IMAGES) % 2
    right, all_first = (ClassStats([f"{i}" for i in range(IMAGES)], ["a", "b"], target, found, np.eye(2)[found])
                        for found in (target, np.zeros_like(target)))  # fmt: skip
    assert measures_of(right) is CLASSES
    assert measures_of(made_up(0.5)) is BOXES
    pairs = paired(right, all_first)  # type: ignore[arg-type]
    assert pairs.base == (100, 100)
    assert pairs.chance == pytest.approx(100 / 3)
    effect = pairs.effect(nullcontext())
    assert effect.change == pytest.approx((-100 * 2 / 3, -50))
    drawn = resamples(IMAGES, BOOT, SEED)
    lost = 100 * (CLASSES.replicates(all_first, drawn) - CLASSES.replicates(right, drawn))
    assert effect.ranges == (interval(lost[:, 0]), interval(lost[:, 1]))
