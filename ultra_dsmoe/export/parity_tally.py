"""Differences between a net's predictions and an exported file's, gathered image by image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from scipy.optimize import linear_sum_assignment

from ultra_dsmoe.errors import ShapeError

SCORE = 1e-3  # how far scores may lie apart (our choice: below what any threshold is set to)
SHARE = 1e-2  # the same as a share of the net's highest score of a class: nets that find little score low in everything
NOISE = 1e-6  # differences of scores that single precision may always have (a tenth was measured)
DETECTION = 6  # x1, y1, x2, y2, score, class: a detection that the file has selected itself
# A class or coordinate is another's where it lies at most half as far from that one as from its own (our choice), and
# either from its own further than rounding to eight bits brings it, or that one has its place in return. Rounding does
# not exchange two: an honest file came no nearer to that than 0.93 times as far.
NEARER, FAR = 0.5, 0.25
FAINT = 1e-4  # share of their length up to which rows are one and the same (our choice): rounding may tell them apart


class Tally:
    """What is known after some images.

    Attributes:
        boxes: Largest difference of a box coordinate per image, in pixels.
        scores: Largest difference of a score per image.
        compared: Whether there was anything to compare yet.
        finite: Whether the file gave numbers only.
    """

    def __init__(self) -> None:
        """Begin without images."""
        self.boxes: list[float] = []
        self.scores: list[float] = []
        self.compared = False
        self.finite = True
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
        self.finite &= bool(np.isfinite(found).all())
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
            if np.isfinite(products).all():
                others = {**taken(products), **exchanged(products)}
                found += [f"{kind} {k} of the file is the net's {kind} {j}" for k, j in sorted(others.items())]
        return tuple(found)


def taken(products: np.ndarray) -> dict[int, int]:
    """Return which rows of a file are plainly another row of the net.

    Args:
        products: Of all rows with all, first the net's, then the file's, (2 n, 2 n).

    Returns:
        The net's row by the file's.
    """
    n = len(products) // 2
    squares = np.diag(products)
    # Squared distances of the file's rows, down, to the net's, across.
    apart = np.sqrt((squares[n:, None] + squares[None, :n] - 2 * products[n:, :n]).clip(0))
    lengths, own, nearest = np.sqrt(squares[:n]), np.diag(apart), apart.argmin(1)
    nearer = apart.min(1) < NEARER * np.minimum(own, lengths[nearest])
    return {int(k): int(nearest[k]) for k in np.flatnonzero(nearer & (own > FAR * lengths))}


def exchanged(products: np.ndarray) -> dict[int, int]:
    """Return which rows of a file have changed places, however near to each other they are.

    What the rows of one exchange have in common is left out: of two classes it is the difference of their scores, place
    by place, that a file shows the other way round. So low scores, which are alike in all classes, hide nothing.

    Args:
        products: As for `taken`.

    Returns:
        The net's row by the file's.
    """
    n = len(products) // 2
    ours, theirs = np.eye(2 * n)[:n], np.eye(2 * n)[n:]
    places = linear_sum_assignment(products[n:, :n], maximize=True)[1]  # all distances together are least

    def length(rows: np.ndarray) -> float:
        return float(np.sqrt(np.sum(rows @ products * rows).clip(0)))

    def apart(some: np.ndarray, others: np.ndarray) -> float:
        return length(some - others - (some - others).mean(0))

    found: dict[int, int] = {}
    for cycle in cycles(places):
        to = places[cycle]
        nearer = apart(theirs[cycle], ours[to]) < NEARER * apart(theirs[cycle], ours[cycle])
        if nearer and apart(ours[cycle], ours[to]) > FAINT * length(ours[cycle]):
            found.update(zip(cycle, map(int, to), strict=True))
    return found


def cycles(places: np.ndarray) -> Iterator[list[int]]:
    """Yield the cycles of a permutation, each from its lowest number, those of one number left out."""
    left = set(range(len(places)))
    while left:
        cycle = [min(left)]
        while (following := int(places[cycle[-1]])) != cycle[0]:
            cycle.append(following)
        left -= set(cycle)
        if len(cycle) > 1:
            yield cycle


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
            alike = (others[:, 5] == row[5]) & (others[:, 4] > 0)  # rows that only fill up have a class too
            mates = np.abs(others[alike, :5] - row[:5])
            if not len(mates):
                yield int(row[5]), float("inf"), float("inf")
                continue
            near = mates[mates.max(1).argmin()]
            yield int(row[5]), float(near[:4].max()), float(near[4])
