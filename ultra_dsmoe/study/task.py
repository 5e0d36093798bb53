"""What a study needs to know of the kind of its nets: how they are scored, and what its table and its page say of them.

How one is validated is in `cell`, how its data are read in `data` and `folders`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ultra_dsmoe.evaluate import class_stats
from ultra_dsmoe.evaluate.bootstrap import mean_f1
from ultra_dsmoe.evaluate.class_stats import ClassStats
from ultra_dsmoe.evaluate.evaluation import ImageStats
from ultra_dsmoe.evaluate.measures import BOXES, CLASSES, Measures

UNLEARNED = 0.01  # mAP50 below which a detector has learned nothing that could be compared (our choice)


class Detection:
    """Studies of detectors."""

    name: ClassVar[str] = "detect"
    measured: ClassVar[Measures] = BOXES
    averaged: ClassVar[tuple[str, ...]] = ("precision", "recall", "F1")  # means over seeds, on the page
    numbers: ClassVar[tuple[str, ...]] = ("mAP50", "mAP50-95", "precision", "recall")  # columns of the table
    hashes: ClassVar[tuple[str, ...]] = ("settings_hash", "data_hash", "prompt_hash")
    per_class: ClassVar[tuple[str, ...]] = ("per_class_AP",)
    reading: ClassVar[str] = (
        "Precision, recall and F1 are means over classes at the confidence where the mean F1 is highest."
    )

    @property
    def measures(self) -> tuple[str, str]:
        """Names of both measures."""
        return self.measured.names

    @property
    def unit(self) -> str:
        """What both measures are."""
        return self.measured.unit

    def score(self, stats: Any) -> np.ndarray:
        """Return the measures over all images, (2,)."""
        return self.measured.score(stats)

    def replicates(self, stats: Any, counts: np.ndarray) -> np.ndarray:
        """Return the measures of resamples, (R, 2); ``counts`` says how often each image is drawn, (R, I)."""
        return self.measured.replicates(stats, counts)

    def beside(self, a: Any, b: Any) -> Any:
        """Return two nets' images as those of one."""
        names = ("files", "tp", "conf", "pred_cls", "target_cls")
        return ImageStats(*(list(getattr(a, n)) + list(getattr(b, n)) for n in names))

    def same(self, a: Any, b: Any) -> bool:
        """Whether two nets saw the same images with the same labels."""
        targets = zip(a.target_cls, b.target_cls, strict=False)
        return a.files == b.files and all(np.array_equal(np.sort(x), np.sort(y)) for x, y in targets)

    def scored(self, stats: Any) -> dict[str, float]:
        """Return what the page has and the table has no column for."""
        return {"F1": mean_f1(stats)}

    def unlearned(self, stats: Any) -> float:
        """Return the first measure below which a net has learned next to nothing."""
        return UNLEARNED


class Classification(Detection):
    """Studies of classifiers; every class counts alike, however rare."""

    name = "classify"
    measured = CLASSES
    averaged = ("recall",)
    numbers = (*class_stats.MEASURES, "recall")
    hashes = ("settings_hash", "data_hash")
    per_class = ("per_class_recall", "per_class_F1")
    reading = "macro_f1 and recall are unweighted means over the classes; top1 is the share of images named rightly."

    def beside(self, a: ClassStats, b: ClassStats) -> ClassStats:
        """Return two nets' images as those of one."""
        return class_stats.beside(a, b)

    def same(self, a: ClassStats, b: ClassStats) -> bool:
        """Whether two nets saw the same images of the same classes."""
        return (a.files, a.names) == (b.files, b.names) and np.array_equal(a.target, b.target)

    def scored(self, stats: Any) -> dict[str, float]:
        """Return nothing: the table has it all."""
        return {}

    def unlearned(self, stats: ClassStats) -> float:
        """Return the macro F1 of always naming the commonest class."""
        return self.measured.chance(stats)


DETECT, CLASSIFY = Detection(), Classification()
TASKS: dict[str, Detection] = {task.name: task for task in (DETECT, CLASSIFY)}


def by_class(rows: Sequence[dict[str, Any]], column: str) -> dict[str, float]:
    """Return the means over rows of a column of one number per class."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for entry in row[column].split(";"):
            name, _, value = entry.rpartition("=")
            found.setdefault(name, []).append(float(value))
    return {name: sum(values) / len(values) for name, values in found.items()}
