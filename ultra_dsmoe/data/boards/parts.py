"""Footprints of the generated boards: where a part has its pads, its holes and its silkscreen outline.

Everything is measured in routing pitches, so that one footprint serves coarse and fine boards. Pad sizes keep the
proportions of common libraries: a ring about as wide as half the hole, surface pads half as wide as their pitch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

RING, RING_HOLE = 1.4, 0.72  # through-hole pad and its drill
SURFACE_WIDTH, SURFACE_LENGTH = 0.58, 1.35
VIA, VIA_HOLE = 0.92, 0.42


@dataclass(frozen=True)
class Pad:
    """One pad, in pitches.

    Attributes:
        x: Centre, to the right of the part's origin.
        y: Centre, below the part's origin.
        width: Extent along x.
        height: Extent along y.
        hole: Diameter of the drill, 0 for a surface pad.
        round: Whether the copper is a disc instead of a rectangle.
    """

    x: float
    y: float
    width: float
    height: float
    hole: float = 0.0
    round: bool = False


@dataclass(frozen=True)
class Part:
    """A footprint: pads, the outline printed around it, and the first letter of its designator."""

    pads: tuple[Pad, ...]
    outline: tuple[float, float, float, float]
    letter: str
    disc: bool = False

    def turned(self) -> Part:
        """Return the part with x and y exchanged."""
        x0, y0, x1, y1 = self.outline
        pads = tuple(replace(p, x=p.y, y=p.x, width=p.height, height=p.width) for p in self.pads)
        return replace(self, pads=pads, outline=(y0, x0, y1, x1))

    def extent(self) -> tuple[float, float, float, float]:
        """Return x0, y0, x1, y1 of everything the part covers, in pitches."""
        left, top, right, bottom = self.outline
        for pad in self.pads:
            left, right = min(left, pad.x - pad.width / 2), max(right, pad.x + pad.width / 2)
            top, bottom = min(top, pad.y - pad.height / 2), max(bottom, pad.y + pad.height / 2)
        return left, top, right, bottom


def _drilled(x: float, y: float, *, first: bool = False) -> Pad:
    """Return a through-hole pad; pin one is square, as on real boards."""
    return Pad(x, y, RING, RING, RING_HOLE, round=not first)


def dual_in_line(rng: np.random.Generator) -> Part:
    """Draw a dual in-line package: two rows of drilled pads."""
    pins, rows = int(rng.integers(3, 8)), int(rng.integers(4, 7))
    pads = [_drilled(2 * i, y, first=i + y == 0) for y in (0, rows) for i in range(pins)]
    return Part(tuple(pads), (-0.6, 1.0, 2 * pins - 1.4, rows - 1.0), "U")


def header(rng: np.random.Generator) -> Part:
    """Draw a pin header: one or two rows of drilled pads side by side."""
    pins, rows = int(rng.integers(2, 8)), int(rng.integers(1, 3))
    pads = [_drilled(2 * i, 2 * j, first=i + j == 0) for j in range(rows) for i in range(pins)]
    return Part(tuple(pads), (-1.0, -1.0, 2 * pins - 1.0, 2 * rows - 1.0), "J")


def small_outline(rng: np.random.Generator) -> Part:
    """Draw a small-outline package: two rows of surface pads one pitch apart."""
    pins, rows = int(rng.integers(4, 9)), int(rng.integers(4, 7))
    pads = [Pad(i, y, SURFACE_WIDTH, SURFACE_LENGTH) for y in (0, rows) for i in range(pins)]
    return Part(tuple(pads), (-0.6, 1.0, pins - 0.4, rows - 1.0), "U")


def quad_flat(rng: np.random.Generator) -> Part:
    """Draw a quad flat package: surface pads on four sides."""
    pins = int(rng.integers(5, 9))
    far = pins + 3
    rows = [Pad(i + 2, y, SURFACE_WIDTH, SURFACE_LENGTH) for y in (0, far) for i in range(pins)]
    columns = [Pad(x, i + 2, SURFACE_LENGTH, SURFACE_WIDTH) for x in (0, far) for i in range(pins)]
    return Part((*rows, *columns), (1.1, 1.1, far - 1.1, far - 1.1), "U")


def two_terminal(rng: np.random.Generator) -> Part:
    """Draw a surface resistor or capacitor."""
    gap, side = int(rng.integers(2, 4)), float(rng.uniform(1.0, 1.3))
    return Part(
        (Pad(0, 0, 0.95, side), Pad(gap, 0, 0.95, side)), (-0.7, -0.85, gap + 0.7, 0.85), str(rng.choice(["R", "C"]))
    )


def transistor(rng: np.random.Generator) -> Part:
    """Draw a three-terminal surface part."""
    pads = (Pad(0, 0, 0.8, 1.1), Pad(2, 0, 0.8, 1.1), Pad(1, 2, 0.8, 1.1))
    return Part(pads, (-0.6, 0.75, 2.6, 1.25), "Q")


def radial_capacitor(rng: np.random.Generator) -> Part:
    """Draw a radial capacitor: two drilled pads in a printed circle."""
    gap = int(rng.integers(2, 5))
    reach = gap / 2 + 1.1
    return Part(
        (_drilled(0, 0, first=True), _drilled(gap, 0)), (gap / 2 - reach, -reach, gap / 2 + reach, reach), "C", True
    )


def mounting_hole(rng: np.random.Generator) -> Part:
    """Draw a plated mounting hole."""
    size = float(rng.uniform(2.4, 3.2))
    return Part((Pad(0, 0, size, size, size * 0.62, round=True),), (-1.7, -1.7, 1.7, 1.7), "H", True)


# Maker and how often it is drawn: what a look over a mixed board shows, small parts most.
CATALOGUE: tuple[tuple[Callable[[np.random.Generator], Part], float], ...] = (
    (two_terminal, 0.36),
    (header, 0.14),
    (dual_in_line, 0.14),
    (small_outline, 0.12),
    (radial_capacitor, 0.08),
    (transistor, 0.08),
    (quad_flat, 0.05),
    (mounting_hole, 0.03),
)


def draw_part(rng: np.random.Generator) -> Part:
    """Draw a part from the catalogue, turned by 90 degrees half of the time."""
    makers, weights = zip(*CATALOGUE, strict=True)
    part = makers[int(rng.choice(len(makers), p=weights))](rng)
    return part.turned() if rng.random() < 0.5 else part
