"""What a classifier said of each image, and its measures over images drawn with replacement, all resamples at once.

Drawing an image twice counts it twice, so a resample is a vector of image weights, and what it says of the classes is
three matrix products: how often each was there, was named, and was named rightly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

MEASURES = ("macro_f1", "top1")
ARRAYS = ("target", "found", "probabilities")


@dataclass
class ClassStats:
    """What a validation of a classifier saw, one entry per image.

    Attributes:
        files: Image files.
        names: Of the K classes.
        target: True classes, int (I,).
        found: Most probable ones, int (I,).
        probabilities: Of all classes, (I, K).
    """

    files: list[str]
    names: list[str]
    target: np.ndarray
    found: np.ndarray
    probabilities: np.ndarray = field(repr=False)


def scores(stats: ClassStats) -> np.ndarray:
    """Return macro F1 and accuracy of all images, (2,) within [0, 1]; classes without an image do not count."""
    return replicates(stats, np.ones((1, len(stats.target))))[0]


def replicates(stats: ClassStats, counts: np.ndarray) -> np.ndarray:
    """Return macro F1 and accuracy of every resample.

    Args:
        stats: Of each image.
        counts: How often each image is drawn, (R, I).

    Returns:
        (R, 2) within [0, 1]. A class without an image in a resample does not count there.
    """
    weights = np.asarray(counts, dtype=np.float64)
    target, found = (np.eye(len(stats.names))[v] for v in (stats.target, stats.found))  # (I, K)
    there, named, right = weights @ target, weights @ found, weights @ (target * found)  # (R, K)
    f1 = 2 * right / np.maximum(there + named, 1)
    macro = f1.sum(1, where=there > 0) / np.maximum((there > 0).sum(1), 1)
    return np.stack([macro, right.sum(1) / np.maximum(there.sum(1), 1)], axis=1)


def beside(a: ClassStats, b: ClassStats) -> ClassStats:
    """Return both classifiers' images as those of one."""
    joined = (np.concatenate([getattr(a, name), getattr(b, name)]) for name in ARRAYS)
    return ClassStats(a.files + b.files, a.names, *joined)


def commonest(stats: ClassStats) -> float:
    """Return the macro F1 of always naming the commonest class."""
    counts = np.bincount(stats.target, minlength=len(stats.names))
    always = np.full_like(stats.target, counts.argmax())
    return float(scores(ClassStats(stats.files, stats.names, stats.target, always, stats.probabilities))[0])
