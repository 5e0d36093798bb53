"""A checkpoint as trained and with something changed, on the same images: what the change did, and how surely.

The bootstrap over images is paired: the same resamples for both passes, so what is common to them cancels. Point values
are the host's own. All of it is in points, hundredths of mAP, or of a classifier's macro F1 and accuracy.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ultra_dsmoe.evaluate.bootstrap import interval, resamples
from ultra_dsmoe.evaluate.measures import BOXES, Measures, column, measures_of

BOOT = 1000  # resamples; the ends of a 95 % interval then rest on 25 each (our choice)
_PARTS = ("{}", "{}_change", "{}_low", "{}_high")

Points = tuple[float, float]  # of both measures, or both ends of an interval


def head(measures: Measures) -> list[str]:
    """Return the headings of a table of changes."""
    return [c for name in measures.names for c in (name, "change [95 %]")]


def csv_head(measures: Measures) -> list[str]:
    """Return the headings of a table of changes as comma-separated values."""
    return [part.format(column(name)) for name in measures.names for part in _PARTS]


HEAD, CSV_HEAD = head(BOXES), csv_head(BOXES)  # of detectors


class Passes(Protocol):
    """A checkpoint and images, ready for any number of passes."""

    def run(self, switch: AbstractContextManager[Any] | None = None) -> Any:
        """Validate once, with ``switch`` in force while images are computed, and return what was seen."""


@dataclass(frozen=True)
class Effect:
    """What one change did, in points.

    Attributes:
        score: Both measures under the change.
        change: Both, minus those of the network as trained.
        ranges: 95 % intervals of both changes.
    """

    score: Points
    change: Points
    ranges: tuple[Points, Points]

    def cells(self) -> list[str]:
        """Return the cells below `head`."""
        parts = zip(self.score, self.change, self.ranges, strict=True)
        return [c for s, d, (low, high) in parts for c in (f"{s:.2f}", f"{d:+.2f} [{low:+.2f}, {high:+.2f}]")]

    def csv_cells(self) -> list[str]:
        """Return the cells below `csv_head`."""
        parts = zip(self.score, self.change, self.ranges, strict=True)
        return [f"{x:.4f}" for s, d, (low, high) in parts for x in (s, d, low, high)]


def base_cells(base: Points) -> list[str]:
    """Return the cells below `head` of the network as trained."""
    return [c for score in base for c in (f"{score:.2f}", "")]


def base_csv_cells(base: Points) -> list[str]:
    """Return the cells below `csv_head` of the network as trained."""
    return [c for score in base for c in (f"{score:.4f}", "", "", "")]


class Reference:
    """What a network was seen to do as trained, to compare other passes over the same images with.

    Attributes:
        measures: What is measured.
        base: Both measures as trained.
        chance: What a net that knows nothing reaches in the first.
        about: Words on the intervals, for a note.
    """

    def __init__(self, stats: Any, boot: int, seed: int) -> None:
        """Resample the images.

        Args:
            stats: What was seen.
            boot: Bootstrap resamples.
            seed: Of the resamples.
        """
        images, self._files = len(stats.files), stats.files
        self._counts, self.measures = resamples(images, boot, seed), measures_of(stats)
        self._score = self.measures.score(stats)
        self._replicates = self.measures.replicates(stats, self._counts)
        self.base, self.chance = percentage_points(self._score), 100 * self.measures.chance(stats)
        self.about = (
            f"in brackets the 95 % interval of {boot} paired bootstrap resamples of the {images} images (seed {seed})"
        )

    def effect(self, stats: Any) -> Effect:
        """Compare with what was seen under a change."""
        assert stats.files == self._files, "the order of images changed between two passes"
        score = self.measures.score(stats)
        spread = 100 * (self.measures.replicates(stats, self._counts) - self._replicates)
        ranges = (interval(spread[:, 0]), interval(spread[:, 1]))
        return Effect(percentage_points(score), percentage_points(score - self._score), ranges)


class PairedBootstrap:
    """A network validated once as trained, to compare passes with.

    Attributes:
        measures: What is measured.
        base: Both measures as trained.
        chance: What a net that knows nothing reaches in the first.
        about: Words on the intervals, for a note.
    """

    def __init__(
        self, evaluation: Passes, boot: int, seed: int, switch: AbstractContextManager[Any] | None = None
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
        self.measures, self.about = self._reference.measures, self._reference.about
        self.base, self.chance = self._reference.base, self._reference.chance

    def effect(self, switch: AbstractContextManager[Any]) -> Effect:
        """Validate with ``switch`` in force and compare."""
        return self._reference.effect(self._evaluation.run(switch))


def percentage_points(pair: np.ndarray) -> Points:
    """Return shares as points."""
    return float(100 * pair[0]), float(100 * pair[1])
