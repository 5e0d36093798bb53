"""The six defects of the generated boards, drawn into the copper mask.

Each maker proposes a shape inside a small window; it is kept only if it has the topology of its class: an open splits
a conductor, a mouse bite does not, a short joins two, a spur touches one, a spurious copper touches none, a missing
hole fills a drill. The box is the extent of the pixels that changed, so it is exact by construction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from ultra_dsmoe.data.boards.layout import Layout

CLASSES = ("missing_hole", "mouse_bite", "open_circuit", "short", "spur", "spurious_copper")
# Pixels at the reference size.
MIN_SIDE, MAX_SIDE = 14, 60
WINDOW = 80  # half side of the window that a defect is judged in
APART = 14  # between two defects, so that each is judged on sound surroundings
GAP = 4  # between added copper and what it must not touch
NECK = 5  # copper that a mouse bite leaves, wide enough not to be taken for an open
TRIES = 120


@dataclass(frozen=True)
class Defect:
    """One defect: class index and box x0, y0, x1, y1 in pixels, the far edges exclusive."""

    kind: int
    box_xyxy_px: tuple[int, int, int, int]


def add_defects(rng: np.random.Generator, layout: Layout, kinds: list[int]) -> tuple[np.ndarray, list[Defect]]:
    """Draw defects into a copy of the copper.

    Args:
        rng: Source of every choice.
        layout: The sound board.
        kinds: Indices into `CLASSES` in drawing order; one that finds no place is left out.

    Returns:
        Copper with the defects (uint8, 0 or 1) and the defects.
    """
    copper, found = layout.copper.copy(), list[Defect]()
    taken = layout.outside.copy()
    for kind in kinds:
        painter = _Painter(rng, layout, copper, taken)
        for _ in range(TRIES):
            change = _MAKERS[CLASSES[kind]](painter)
            box = None if change is None else painter.accept(change)
            if box:
                found.append(Defect(kind, box))
                break
    return copper, found


class _Painter:
    """The board while one defect is sought; windows are views of its masks."""

    def __init__(self, rng: np.random.Generator, layout: Layout, copper: np.ndarray, taken: np.ndarray) -> None:
        self.rng, self.layout, self.copper, self.taken = rng, layout, copper, taken
        self.scale = layout.scale
        self.x0 = self.y0 = 0
        self.cut = np.zeros((0, 0), np.uint8)
        self.holes = self.pads = self.cut
        self._spots: dict[str, np.ndarray] = {}

    def length(self, low: float, high: float) -> float:
        """Draw a length given in pixels at the reference size."""
        return float(self.rng.uniform(low, high)) * self.scale

    def whole(self, pixels: float) -> int:
        """Return a length given at the reference size in whole pixels, at least 1."""
        return max(1, round(pixels * self.scale))

    def look_at(self, x: int, y: int) -> tuple[int, int]:
        """Move the window to a pixel and return that pixel's place in it."""
        half = self.whole(WINDOW)
        self.x0, self.y0 = max(0, x - half), max(0, y - half)
        rows, columns = slice(self.y0, y + half + 1), slice(self.x0, x + half + 1)
        self.cut, self.holes = self.copper[rows, columns], self.layout.holes[rows, columns]
        self.pads = self.layout.pads[rows, columns]
        return x - self.x0, y - self.y0

    def spot(self, where: str) -> tuple[int, int] | None:
        """Return a random pixel of the copper's edge ("edge"), its inside ("copper") or of wide free board ("free")."""
        if where not in self._spots:
            if where == "edge":
                mask = (self.copper > 0) & (cv2.erode(self.copper, np.ones((3, 3), np.uint8)) == 0)
            elif where == "copper":
                mask = self.copper > 0
            else:
                occupied = self.copper | self.layout.holes | self.taken
                mask = cv2.distanceTransform(1 - occupied, cv2.DIST_L2, 3) > (MIN_SIDE / 2 + GAP + 2) * self.scale
            self._spots[where] = np.flatnonzero(mask)
        spots = self._spots[where]
        if not len(spots):
            return None
        y, x = divmod(int(spots[self.rng.integers(len(spots))]), self.copper.shape[1])
        return x, y

    def outward(self, x: int, y: int) -> np.ndarray:
        """Return the unit vector that points from the copper's edge into the free board, in window pixels."""
        reach = self.whole(5)
        near = self.cut[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        rows, columns = np.nonzero(near)
        vector = np.array([min(x, reach) - columns.mean(), min(y, reach) - rows.mean()])
        return vector / max(float(np.hypot(*vector)), 1e-6)

    def fill(self, points: np.ndarray) -> np.ndarray:
        """Return the window mask of a polygon, [n, 2] window pixels."""
        mask = np.zeros_like(self.cut)
        cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 1, shift=4)
        return mask

    def blob(self, x: float, y: float, long: float, wide: float, uneven: float = 0.14) -> np.ndarray:
        """Return the mask of an uneven ellipse: long half axis at a random angle, three low harmonics on its rim."""
        angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        rim = np.ones_like(angle)
        for harmonic in (2, 3, 5):
            rim += self.rng.uniform(0, uneven) * np.cos(harmonic * angle + self.rng.uniform(0, 2 * np.pi))
        turn = self.rng.uniform(0, np.pi)
        u, v = rim * long * np.cos(angle), rim * wide * np.sin(angle)
        return self.fill(
            np.stack([x + u * np.cos(turn) - v * np.sin(turn), y + u * np.sin(turn) + v * np.cos(turn)], 1)
        )

    def touched(self, change: np.ndarray, reach: float) -> int:
        """Return how many pieces of copper in the window lie within a reach of the change."""
        labels = cv2.connectedComponents(self.cut, connectivity=8)[1]
        near = grow(change, self.whole(reach))
        return len(np.unique(labels[(near > 0) & (self.cut > 0)]))

    def accept(self, change: np.ndarray) -> tuple[int, int, int, int] | None:
        """Flip the changed pixels and return their box, or None if size or place is not right.

        Args:
            change: Window mask of the pixels to flip.
        """
        left, top, width, height = cv2.boundingRect(change)
        low, high = self.whole(MIN_SIDE), self.whole(MAX_SIDE)
        if not (low <= width <= high and low <= height <= high) or pieces(change) != 1:
            return None
        box = (self.x0 + left, self.y0 + top, self.x0 + left + width, self.y0 + top + height)
        size, apart = self.copper.shape[0], self.whole(APART)
        if min(box) < self.whole(3) or max(box) > size - self.whole(3):
            return None
        area = (slice(max(0, box[1] - apart), box[3] + apart), slice(max(0, box[0] - apart), box[2] + apart))
        inside = (slice(box[1], box[3]), slice(box[0], box[2]))
        if self.taken[area].any() or self.layout.silk[inside].mean() > 0.05:
            return None
        self.cut ^= change
        self.taken[inside] = 1
        return box


def grow(mask: np.ndarray, reach: int) -> np.ndarray:
    """Return a mask widened by a reach in all directions."""
    return cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)))


def pieces(mask: np.ndarray) -> int:
    """Return the number of connected pieces of a mask, corners count as connected."""
    return int(cv2.connectedComponents(mask, connectivity=8)[0]) - 1


def missing_hole(p: _Painter) -> np.ndarray | None:
    """Fill a drill that a part needs."""
    large = p.layout.drills[p.layout.drills[:, 2] >= MIN_SIDE * p.scale]
    if not len(large):
        return None
    x, y, diameter = (int(v) for v in large[p.rng.integers(len(large))])
    if not (0 <= x < p.copper.shape[1] and 0 <= y < p.copper.shape[0]):
        return None
    x, y = p.look_at(x, y)
    disc = np.zeros_like(p.cut)
    cv2.circle(disc, (x, y), diameter // 2, 1, -1)
    return disc & p.holes & (1 - p.cut)


def mouse_bite(p: _Painter) -> np.ndarray | None:
    """Take a rounded nick out of an edge and leave a neck."""
    spot = p.spot("edge")
    if spot is None:
        return None
    x, y = p.look_at(*spot)
    around = np.zeros_like(p.cut)
    cv2.circle(around, (x, y), p.whole(12), 1, -1)
    # On a straight edge half of the surroundings is copper; a bitten corner would be a matter of taste.
    if not 0.4 < p.cut[around > 0].mean() < 0.62:
        return None
    blob = p.blob(x, y, p.length(20, 29), p.length(16, 24), uneven=0.06)
    bite = blob & p.cut
    if not 0.3 < bite.sum() / max(1, blob.sum()) < 0.75 or (grow(bite, p.whole(2)) & p.holes).any():
        return None
    before = pieces(p.cut)
    return bite if pieces(p.cut & (1 - grow(bite, p.whole(NECK)))) <= before == pieces(p.cut & (1 - bite)) else None


def open_circuit(p: _Painter) -> np.ndarray | None:
    """Cut a trace across its full width, with slanted ragged ends."""
    spot = p.spot("copper")
    if spot is None:
        return None
    x, y = p.look_at(*spot)
    turn, half = p.rng.integers(8) * np.pi / 8, p.length(13, 23)
    along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    steps = np.linspace(-1, 1, 7) * p.length(14, 34)
    ragged = p.rng.uniform(0.75, 1.15, (2, 7)) * half
    slant = p.rng.uniform(-0.4, 0.4) * steps
    near = [across * s + along * (k - r) for s, k, r in zip(steps, slant, ragged[0], strict=True)]
    far = [across * s + along * (k + r) for s, k, r in zip(steps, slant, ragged[1], strict=True)]
    shape = p.fill(np.array([x, y]) + np.array(near + far[::-1]))
    cut = shape & p.cut
    # Of a pad it might leave a thin frame, which is no cut trace.
    if pieces(cut) != 1 or (grow(cut, p.whole(3)) & (p.holes | p.pads)).any() or p.touched(cut, 1) != 1:
        return None
    # Two ends must remain, each long enough to be seen as an end of the trace and not as a crumb.
    rest = cv2.connectedComponentsWithStats(p.cut & (1 - cut), connectivity=8)
    ends = np.unique(rest[1][grow(cut, 1) > 0])
    large = [rest[2][i, cv2.CC_STAT_AREA] >= 80 * p.scale**2 for i in ends if i]
    return cut if len(large) == 2 and all(large) and rest[0] - 1 > pieces(p.cut) else None


def short(p: _Painter) -> np.ndarray | None:
    """Bridge the gap to the next conductor."""
    spot = p.spot("edge")
    if spot is None:
        return None
    x, y = p.look_at(*spot)
    out = p.outward(x, y)
    for distance in range(p.whole(10), p.whole(52)):
        u, v = np.round(np.array([x, y]) + out * distance).astype(int)
        if not (0 <= u < p.cut.shape[1] and 0 <= v < p.cut.shape[0]):
            return None
        if p.cut[v, u]:
            break
    else:
        return None
    side = np.array([-out[1], out[0]])
    lean = p.length(-5, 5)
    stations = np.array([-3 * p.scale, distance / 2, distance + 3 * p.scale])
    widths = np.array([p.length(15, 26), p.length(11, 18), p.length(15, 26)])
    middle = np.array([x, y]) + stations[:, None] * out + np.array([[0.0], [0.5], [1.0]]) * lean * side
    shape = p.fill(np.concatenate([middle + widths[:, None] * side, (middle - widths[:, None] * side)[::-1]]))
    if (grow(shape, p.whole(2)) & p.holes).any():
        return None
    bridge = shape & (1 - p.cut)
    joins = pieces(bridge) == 1 and p.touched(bridge, 1) == 2 == p.touched(bridge, GAP)
    return bridge if joins and pieces(p.cut | bridge) == pieces(p.cut) - 1 else None


def spur(p: _Painter) -> np.ndarray | None:
    """Let a pointed finger grow out of an edge."""
    spot = p.spot("edge")
    if spot is None:
        return None
    x, y = p.look_at(*spot)
    out = p.outward(x, y)
    side = np.array([-out[1], out[0]])
    base, tall, lean = p.length(14, 21), p.length(28, 54), p.length(-9, 9)
    foot = np.array([x, y]) - 3 * p.scale * out
    tip, waist = foot + (tall + 3 * p.scale) * out + lean * side, foot + 0.5 * tall * out + 0.2 * lean * side
    blunt = 0.22 * base * side
    rim = [foot + base * side, waist + 0.62 * base * side, tip + blunt, tip - blunt, waist - 0.62 * base * side]
    shape = p.fill(np.array([*rim, foot - base * side]))
    if (grow(shape, p.whole(2)) & p.holes).any():
        return None
    spike = shape & (1 - p.cut)
    base_only = pieces(spike) == 1 and pieces(grow(spike, p.whole(GAP)) & p.cut) == 1 == p.touched(spike, 1)
    # The attached side must be the smaller part of its rim, or the spike has merely filled a corner.
    rim_all = grow(spike, 1) & (1 - spike)
    return spike if base_only and (rim_all & p.cut).sum() < 0.42 * rim_all.sum() else None


def spurious_copper(p: _Painter) -> np.ndarray | None:
    """Leave an island of copper on the free board."""
    spot = p.spot("free")
    if spot is None:
        return None
    x, y = p.look_at(*spot)
    island = p.blob(x, y, p.length(17, 28), p.length(15, 22))
    return None if (grow(island, p.whole(GAP)) & (p.cut | p.holes)).any() else island


_MAKERS: dict[str, Callable[[_Painter], np.ndarray | None]] = {
    "missing_hole": missing_hole,
    "mouse_bite": mouse_bite,
    "open_circuit": open_circuit,
    "short": short,
    "spur": spur,
    "spurious_copper": spurious_copper,
}
