"""The gate of classifiers' exports: what counts as moved, as exchanged, as no number."""

from __future__ import annotations

import numpy as np
import pytest

from ultra_dsmoe.export.pair_parity import difference
from ultra_dsmoe.export.parity_verdict import ParityError

NET = np.random.default_rng(0).dirichlet([1, 1, 1], 8).astype(np.float32)


def test_a_faithful_file() -> None:
    found = difference(NET, NET + 1e-6)
    assert found.probability == pytest.approx(1e-6, rel=0.1)
    assert (found.exchanged, found.finite, found.images) == ((), True, 8)


def test_exchanged_classes_are_named_however_low_the_probabilities() -> None:
    """An untrained net says nearly the same of every class: no limit on probabilities would tell."""
    flat = 1 / 3 + 1e-4 * (NET - 1 / 3)
    assert difference(flat, flat[:, [1, 0, 2]]).exchanged == ((0, 1), (1, 0))
    assert difference(flat, flat + 1e-7).exchanged == ()


def test_equal_columns_cannot_be_told_apart() -> None:
    even = np.full((4, 3), 1 / 3)
    assert difference(even, even + 1e-7).exchanged == ()


def test_no_number_is_told() -> None:
    file = NET.copy()
    file[2, 1] = np.nan
    assert not difference(NET, file).finite


def test_another_shape_is_refused() -> None:
    with pytest.raises(ParityError, match="exported file: expected probabilities"):
        difference(NET, NET[:, :2])
