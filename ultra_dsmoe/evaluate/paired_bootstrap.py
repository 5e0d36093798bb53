"""A checkpoint as trained and with something changed, on the same images: what the change did, and how surely.

The bootstrap over images is paired: the same resamples for both passes, so what is common to them cancels. Point values
are the host's own. All of it is in points, hundredths of mAP.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ultra_dsmoe.evaluate.bootstrap import interval, mean_ap, replicates, resamples
from ultra_dsmoe.evaluate.evaluation import Evaluation, ImageStats

BOOT = 1000  # resamples; the ends of a 95 % interval then rest on 25 each (our choice)
COLUMNS = ("mAP50", "mAP50-95")
HEAD = [c for name in COLUMNS for c in (name, "change [95 %]")]
_PARTS = ("{}", "{}_change", "{}_low", "{}_high")
CSV_HEAD = [part.format(name.replace("-", "_").lower()) for name in COLUMNS for part in _PARTS]

Points = tuple[float, float]  # of mAP50 and mAP50-95, or both ends of an interval


@dataclass(frozen=True)
class Effect:
    """What one change did, in points.

    Attributes:
        score: mAP50 and mAP50-95 under the change.
        change: Both, minus those of the network as trained.
        ranges: 95 % intervals of both changes.
    """

    score: Points
    change: Points
    ranges: tuple[Points, Points]

    def cells(self) -> list[str]:
        """Return the cells below `HEAD`."""
        parts = zip(self.score, self.change, self.ranges, strict=True)
        return [c for s, d, (low, high) in parts for c in (f"{s:.2f}", f"{d:+.2f} [{low:+.2f}, {high:+.2f}]")]

    def csv_cells(self) -> list[str]:
        """Return the cells below `CSV_HEAD`."""
        parts = zip(self.score, self.change, self.ranges, strict=True)
        return [f"{x:.4f}" for s, d, (low, high) in parts for x in (s, d, low, high)]


def base_cells(base: Points) -> list[str]:
    """Return the cells below `HEAD` of the network as trained."""
    return [c for score in base for c in (f"{score:.2f}", "")]


def base_csv_cells(base: Points) -> list[str]:
    """Return the cells below `CSV_HEAD` of the network as trained."""
    return [c for score in base for c in (f"{score:.4f}", "", "", "")]


class Reference:
    """What a network was seen to do as trained, to compare other passes over the same images with.

    Attributes:
        base: mAP50 and mAP50-95 as trained.
        about: Words on the intervals, for a note.
    """

    def __init__(self, stats: ImageStats, boot: int, seed: int) -> None:
        """Resample the images.

        Args:
            stats: What was seen.
            boot: Bootstrap resamples.
            seed: Of the resamples.
        """
        images, self._files = len(stats.files), stats.files
        self._counts = resamples(images, boot, seed)
        self._map, self._replicates = mean_ap(stats), replicates(stats, self._counts)
        self.base = percentage_points(self._map)
        self.about = (
            f"in brackets the 95 % interval of {boot} paired bootstrap resamples of the {images} images (seed {seed})"
        )

    def effect(self, stats: ImageStats) -> Effect:
        """Compare with what was seen under a change."""
        assert stats.files == self._files, "the order of images changed between two passes"
        score, spread = mean_ap(stats), 100 * (replicates(stats, self._counts) - self._replicates)
        ranges = (interval(spread[:, 0]), interval(spread[:, 1]))
        return Effect(percentage_points(score), percentage_points(score - self._map), ranges)


class PairedBootstrap:
    """A network validated once as trained, to compare passes with.

    Attributes:
        base: mAP50 and mAP50-95 as trained.
        about: Words on the intervals, for a note.
    """

    def __init__(
        self, evaluation: Evaluation, boot: int, seed: int, switch: AbstractContextManager[Any] | None = None
    ) -> None:
        """Validate as trained.

        Args:
            evaluation: Checkpoint and data.
            boot: Bootstrap resamples.
            seed: Of the resamples.
            switch: In force meanwhile; it may watch but not change what is computed.
        """
        self._evaluation = evaluation
        self._reference = Reference(evaluation.run(switch), boot, seed)
        self.base, self.about = self._reference.base, self._reference.about

    def effect(self, switch: AbstractContextManager[Any]) -> Effect:
        """Validate with ``switch`` in force and compare."""
        return self._reference.effect(self._evaluation.run(switch))


def percentage_points(pair: np.ndarray) -> Points:
    """Return shares as points."""
    return float(100 * pair[0]), float(100 * pair[1])
