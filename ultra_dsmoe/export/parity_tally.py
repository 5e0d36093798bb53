"""Differences between a net's predictions and an exported file's, gathered image by image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from ultra_dsmoe.errors import ShapeError

SCORE = 1e-3  # how far scores may lie apart (our choice: below what any threshold is set to)
SHARE = 1e-2  # the same as a share of the net's highest score of a class: nets that find little score low in everything
NOISE = 1e-6  # differences of scores that single precision may always have (a tenth was measured)
DETECTION = 6  # x1, y1, x2, y2, score, class: a detection that the file has selected itself
# A class or coordinate is another's where it lies at most half as far from that one as from its own, and from its own
# further than rounding to eight bits brings it (our choice).
NEARER, FAR = 0.5, 0.25


class Tally:
    """What is known after some images.

    Attributes:
        boxes: Largest difference of a box coordinate per image, in pixels.
        scores: Largest difference of a score per image.
        compared: Whether there was anything to compare yet.
    """

    def __init__(self) -> None:
        """Begin without images."""
        self.boxes: list[float] = []
        self.scores: list[float] = []
        self.compared = False
        self._off: dict[int, float] = defaultdict(float)  # by class
        self._peak: dict[int, float] = defaultdict(float)
        self._products: dict[str, np.ndarray] = {}  # of all rows with all, first the net's, then the file's

    def begin(self) -> None:
        """Begin the next image."""
        self.boxes.append(0.0)
        self.scores.append(0.0)

    def add(self, expected: np.ndarray, found: np.ndarray, conf: float | None = None) -> None:
        """Compare predictions for the present image.

        Args:
            expected: The net's, (1, 4 + K, A), or detections (1, M, 6).
            found: The file's.
            conf: Lowest score of the detections.

        Raises:
            ShapeError: If the shapes differ.
        """
        if expected.shape != found.shape:
            raise ShapeError("predictions of the exported file", f"shape {expected.shape} of the net's", found.shape)
        if expected.shape[-1] == DETECTION:
            self._add_detections(expected[0], found[0], conf or 0.0)
        else:
            self._add_maps(expected[0], found[0])

    def _add_maps(self, expected: np.ndarray, found: np.ndarray) -> None:
        self.compared = True
        off = np.nan_to_num(np.abs(expected - found), nan=np.inf).max(1)
        self.boxes[-1] = max(self.boxes[-1], float(off[:4].max()))
        for number, (score, peak) in enumerate(zip(off[4:], expected[4:].max(1), strict=True)):
            self._note(number, float(score), float(peak))
        for kind, rows in (("box coordinate", slice(0, 4)), ("class", slice(4, None))):
            both = np.concatenate([expected[rows], found[rows]]).astype(np.float64)
            self._products[kind] = self._products.get(kind, 0.0) + both @ both.T

    def _add_detections(self, expected: np.ndarray, found: np.ndarray, conf: float) -> None:
        for row in expected:
            self._note(int(row[5]), 0.0, float(row[4]))
        for number, box, score in matched(expected, found, conf):
            self.compared = True
            self.boxes[-1] = max(self.boxes[-1], box)
            self._note(number, score, 0.0)

    def _note(self, number: int, off: float, peak: float) -> None:
        self.scores[-1] = max(self.scores[-1], off)
        self._off[number] = max(self._off[number], off)
        self._peak[number] = max(self._peak[number], peak)

    def share(self, noise: float = NOISE) -> tuple[float, int]:
        """Return the largest difference of a score as a share of the net's highest of that class, and the class."""
        shares = {n: off / max(self._peak[n], noise) if off > noise else 0.0 for n, off in self._off.items()}
        worst = max(shares, key=lambda n: shares[n], default=0)
        return shares.get(worst, 0.0), worst

    def mixed_up(self) -> tuple[str, ...]:
        """Return which classes and box coordinates of the file are others of the net, whatever the precision."""
        found = []
        for kind, products in self._products.items():
            n = len(products) // 2
            squares = np.diag(products)
            # Squared distances of the file's rows, down, to the net's, across.
            apart = np.sqrt((squares[n:, None] + squares[None, :n] - 2 * products[n:, :n]).clip(0))
            lengths, own = np.sqrt(squares[:n]), np.diag(apart)
            for k, j in enumerate(apart.argmin(1)):
                nearer = apart[k, j] < NEARER * min(own[k], lengths[j])
                if nearer and own[k] > FAR * lengths[k]:
                    found.append(f"{kind} {k} of the file is the net's {kind} {j}")
        return tuple(found)


def matched(expected: np.ndarray, found: np.ndarray, conf: float = 0.0) -> Iterator[tuple[int, float, float]]:
    """Match detections (M, 6) both ways: equal scores may come in another order.

    Args:
        expected: The net's.
        found: The file's.
        conf: Lowest score that a detection can have; nearly that low ones may be missing on one side.

    Yields:
        Class and the differences of box and score to its nearest mate, infinite where it has none.
    """
    if not np.isfinite(found).all():
        yield 0, float("inf"), float("inf")
        return
    peak = max(expected[:, 4].max(), found[:, 4].max())
    lowest = max(conf, expected[:, 4].min(), found[:, 4].min())  # the last ones may make way for each other
    lowest += max(NOISE, min(SCORE, SHARE * peak))
    for ones, others in ((expected, found), (found, expected)):
        for row in ones[ones[:, 4] > lowest]:
            mates = np.abs(others[others[:, 5] == row[5], :5] - row[:5])
            if not len(mates):
                yield int(row[5]), float("inf"), float("inf")
                continue
            near = mates[mates.max(1).argmin()]
            yield int(row[5]), float(near[:4].max()), float(near[4])
