"""Measures per class: by hand, undefined ones, and beside scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from ultra_dsmoe.evaluate.class_metrics import counts, f1_scores, macro_f1, recalls

TARGETS, FOUND = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 2])


def test_by_hand() -> None:
    table = counts(TARGETS, FOUND, 4)
    assert table.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert recalls(table) == pytest.approx([2 / 3, 1 / 2, 1, 0])
    assert f1_scores(table) == pytest.approx([4 / 5, 1 / 2, 2 / 3, 0])  # the last has neither images nor finds
    assert macro_f1(table) == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 4)


def test_beside_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    targets, found = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
    table = counts(targets, found, 5)
    assert macro_f1(table) == pytest.approx(metrics.f1_score(targets, found, average="macro"))
    assert recalls(table) == pytest.approx(metrics.recall_score(targets, found, average=None))
