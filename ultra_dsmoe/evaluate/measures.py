"""The two numbers that nets of one kind are judged by, over all images and over images drawn with replacement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ultra_dsmoe.evaluate import bootstrap, class_stats
from ultra_dsmoe.evaluate.class_stats import ClassStats


@dataclass(frozen=True)
class Measures:
    """What is measured of a kind of nets; the first number decides.

    Attributes:
        names: Of both.
        unit: What both are, in plain words.
        score: Returns both over all images of what a validation saw, (2,) within [0, 1].
        replicates: Returns both of every resample, (R, 2), of what was seen and how often each image is drawn, (R, I).
        chance: Returns what a net that knows nothing reaches in the first.
    """

    names: tuple[str, str]
    unit: str
    score: Callable[[Any], np.ndarray]
    replicates: Callable[[Any, np.ndarray], np.ndarray]
    chance: Callable[[Any], float]


BOXES = Measures(("mAP50", "mAP50-95"), "mAP", bootstrap.mean_ap, bootstrap.replicates, lambda stats: 0.0)
CLASSES = Measures(
    class_stats.MEASURES, "macro F1 or accuracy", class_stats.scores, class_stats.replicates, class_stats.commonest
)


def measures_of(stats: Any) -> Measures:
    """Return how what a validation saw is measured: boxes, or a classifier's classes."""
    return CLASSES if isinstance(stats, ClassStats) else BOXES


def column(name: str) -> str:
    """Return the heading of a measure's column in a CSV."""
    return name.replace("-", "_").lower()
