"""Measures of a classifier over resampled images: those of images that are there as often."""

from __future__ import annotations

import numpy as np
import pytest

from ultra_dsmoe.evaluate.class_metrics import counts, macro_f1
from ultra_dsmoe.evaluate.class_stats import ClassStats, beside, commonest, replicates, scores


def made_up(images: int = 60, classes: int = 4, seed: int = 0) -> ClassStats:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, images)
    probabilities = rng.random((images, classes)) + np.eye(classes)[target]
    names = [chr(97 + k) for k in range(classes)]
    return ClassStats([f"{i}.png" for i in range(images)], names, target, probabilities.argmax(1), probabilities)


def test_scores_are_macro_f1_and_accuracy() -> None:
    stats = made_up()
    table = counts(stats.target, stats.found, 4)
    assert scores(stats) == pytest.approx([macro_f1(table), np.mean(stats.target == stats.found)])


def test_resamples_are_images_repeated() -> None:
    stats = made_up()
    drawn = np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60), size=5)
    expected = []
    for times in drawn:
        which = np.repeat(np.arange(60), times)
        table = counts(stats.target[which], stats.found[which], 4)
        expected.append([macro_f1(table), np.mean(stats.target[which] == stats.found[which])])
    assert replicates(stats, drawn) == pytest.approx(np.array(expected))


def test_a_class_that_is_not_drawn_does_not_count() -> None:
    target, found = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])
    stats = ClassStats(["a", "b", "c", "d"], ["x", "y", "z"], target, found, np.eye(3)[found])
    # Of x and y alone: F1 2/3 each; the class z, which is not there, is not a zero among them.
    assert replicates(stats, np.array([[1, 1, 1, 0]]))[0] == pytest.approx([2 / 3, 2 / 3])
    assert replicates(stats, np.zeros((1, 4)))[0] == pytest.approx([0, 0])


def test_both_beside_each_other_are_one_or_the_other() -> None:
    one, other = made_up(seed=0), made_up(seed=0)
    other.found = (other.found + 1) % 4
    both, half = beside(one, other), np.zeros(60)
    assert replicates(both, np.concatenate([half + 1, half])[None])[0] == pytest.approx(scores(one))
    assert replicates(both, np.concatenate([half, half + 1])[None])[0] == pytest.approx(scores(other))


def test_the_commonest_class_is_what_knowing_nothing_gives() -> None:
    target = np.array([0, 1, 1, 1])
    stats = ClassStats(list("abcd"), ["x", "y"], target, target, np.eye(2)[target])
    assert commonest(stats) == pytest.approx((6 / 7) / 2)  # y: precision 3/4, recall 1
