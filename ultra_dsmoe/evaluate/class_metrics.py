"""Measures of a classifier that count every class alike, however rare.

Source: [PFA] Eq. 11, 12.
"""

from __future__ import annotations

import numpy as np


def counts(targets: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """Return how often each class was taken for each, int64 [K, K]: rows are true classes, columns found ones.

    Args:
        targets: True classes, (N,).
        found: Found ones, (N,).
        classes: Number K of classes.
    """
    pairs = np.asarray(targets, dtype=np.int64) * classes + np.asarray(found, dtype=np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def recalls(table: np.ndarray) -> np.ndarray:
    """Return the share of each class that was found, (K,); 0 for a class without images."""
    return np.diag(table) / table.sum(1).clip(1)


def f1_scores(table: np.ndarray) -> np.ndarray:
    """Return ``2 P R / (P + R)`` of each class, (K,); 0 where that is undefined."""
    return 2 * np.diag(table) / (table.sum(0) + table.sum(1)).clip(1)


def macro_f1(table: np.ndarray) -> float:
    """Return the unweighted mean of the classes' F1."""
    return float(f1_scores(table).mean())
