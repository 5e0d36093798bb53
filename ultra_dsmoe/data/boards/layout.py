"""The copper of a generated board without defects: parts, buses, 45-degree traces, vias and ground areas.

Traces run on a square grid in eight directions. Every grid cell belongs to nobody, to one net or, next to two of them,
to none for ever; a route may only use free cells and its own, so two nets never touch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from ultra_dsmoe.data.boards.parts import VIA, VIA_HOLE, Pad, Part, draw_part, header

REFERENCE_SIZE = 640  # all lengths below are pixels at this size
MIN_SCALE = 0.35  # smaller images show a smaller piece of board, or traces would vanish
PITCHES = (46, 52, 58)
CLEARANCE = 0.22  # of a pitch, kept between nets
BLOCKED = -1
MIN_CELLS = 4  # of a trace that leads to a via
MIN_BUS_CELLS = 12  # a smaller picture would be all bus
STEPS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))


@dataclass(frozen=True)
class Layout:
    """What is on a board, as masks (uint8, 0 or 1) of [size, size] pixels.

    Attributes:
        copper: Traces, pads and areas, drilled holes left out.
        holes: Drilled holes.
        pads: Copper that the solder mask leaves open.
        silk: Printed marks.
        outside: What lies beyond the board's edge.
        drills: Centre and diameter of each hole in a part's round pad, [n, 3] pixels; vias are not among them.
        scale: Pixels per pixel at the reference size.
    """

    copper: np.ndarray
    holes: np.ndarray
    pads: np.ndarray
    silk: np.ndarray
    outside: np.ndarray
    drills: np.ndarray
    scale: float


def lay_out(rng: np.random.Generator, size: int) -> Layout:
    """Draw one defect-free board.

    Args:
        rng: Source of every choice.
        size: Side of the square image in pixels.
    """
    board = _Builder(rng, size)
    if rng.random() < 0.25:
        board.cut_edge()
    if rng.random() < 0.6 and board.cells >= MIN_BUS_CELLS:
        board.add_bus()
    board.add_parts()
    for _ in range(int(rng.integers(1, 4))):
        board.wander(width=float(rng.uniform(0.85, 1.6)), margin=1)
    board.connect_pins()
    for _ in range(int(rng.integers(12, 30))):
        board.wander(width=board.trace, margin=0)
    if rng.random() < 0.4:
        board.add_area()
    return board.finish()


class _Builder:
    """A board while it is drawn."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng, self.size = rng, size
        self.scale = max(size / REFERENCE_SIZE, MIN_SCALE)
        self.pitch = round(int(rng.choice(PITCHES)) * self.scale)
        self.trace = float(rng.uniform(0.46, 0.58))  # width of a signal trace in pitches
        self.open_vias = bool(rng.random() < 0.6)
        # One ring of cells lies outside of the picture, so that a trace that ends on the ring runs off the picture.
        self.shift = rng.integers(-self.pitch, 0, 2)
        self.cells = size // self.pitch + 3
        self.owner = [[0] * self.cells for _ in range(self.cells)]  # [row][column]
        self.copper, self.holes, self.pads, self.silk, self.outside = np.zeros((5, size, size), dtype=np.uint8)
        self.drills: list[tuple[int, int, int]] = []
        self.pins: list[tuple[int, int, int]] = []  # column, row, net
        self.nets = 0
        self.marks = 0

    def px(self, x: float, y: float) -> tuple[int, int]:
        """Return the pixel of a position given in pitches."""
        return round(self.shift[0] + x * self.pitch), round(self.shift[1] + y * self.pitch)

    def thick(self, pitches: float) -> int:
        """Return a width in whole pixels, at least 2."""
        return max(2, round(pitches * self.pitch))

    def free(self, x: int, y: int, *nets: int) -> bool:
        """Return whether a cell on the board is unused or belongs to one of the nets."""
        return 0 <= x < self.cells and 0 <= y < self.cells and (self.owner[y][x] == 0 or self.owner[y][x] in nets)

    def claim(self, x: float, y: float, reach_x: float, reach_y: float, net: int) -> None:
        """Give a net every cell closer than its reach; cells near two nets are blocked."""
        for row in range(max(0, int(np.ceil(y - reach_y))), min(self.cells, int(y + reach_y) + 1)):
            for column in range(max(0, int(np.ceil(x - reach_x))), min(self.cells, int(x + reach_x) + 1)):
                held = self.owner[row][column]
                self.owner[row][column] = net if held in (0, net) else BLOCKED

    def block_by_pixels(self) -> None:
        """Block the cells that lie on or near what has been drawn off the grid."""
        reach = self.thick(self.trace / 2 + CLEARANCE) * 2 + 1
        near = cv2.dilate(self.copper | self.outside, np.ones((reach, reach), np.uint8))
        for row in range(self.cells):
            for column in range(self.cells):
                x, y = (min(max(v, 0), self.size - 1) for v in self.px(column, row))
                if near[y, x]:
                    self.owner[row][column] = BLOCKED

    def cut_edge(self) -> None:
        """Let one side of the picture show what lies beyond the board."""
        depth = round(self.rng.uniform(18, 60) * self.scale)
        turned = np.rot90(self.outside, int(self.rng.integers(4)))  # a view: writes go through
        turned[:depth] = 1
        self.block_by_pixels()

    def add_bus(self) -> None:
        """Draw a bundle of parallel traces that crosses the picture with two 45-degree bends."""
        rng, size = self.rng, self.size
        lanes, width = int(rng.integers(3, 8)), self.thick(self.trace)
        pitch = width + self.thick(rng.uniform(0.45, 0.6))
        start, step = rng.uniform(0.15, 0.75) * size, rng.uniform(-0.3, 0.3) * size
        bend = rng.uniform(0.1, 0.8) * size
        along = np.array([-size / 4, bend, bend + abs(step), size * 1.25])
        across = np.array([start, start, start + step, start + step])
        swap = rng.random() < 0.5
        # A parallel of a path bent by 45 degrees: its corners slide along the path by tan(22.5 degrees) of the offset.
        slide = np.tan(np.pi / 8) * np.sign(step)
        for lane in range(lanes):
            offset = (lane - (lanes - 1) / 2) * pitch
            points = np.stack([along - np.array([0, 1, 1, 0]) * slide * offset, across + offset], 1)
            line = np.round(points[:, ::-1] if swap else points).astype(np.int32)
            cv2.polylines(self.copper, [line], False, 1, width)
        self.copper[self.outside > 0] = 0
        self.block_by_pixels()

    def add_parts(self) -> None:
        """Place parts at random where they fit; the first ones are drilled, so that boards have holes to miss."""
        wanted, failures = int(self.rng.integers(6, 16)), 0
        part = header(self.rng)
        while wanted and failures < 80:
            placed = self.place(part)
            wanted, failures = wanted - placed, failures + (not placed)
            part = draw_part(self.rng) if self.holds_drills() else header(self.rng)

    def holds_drills(self) -> bool:
        """Return whether three drills lie well inside the picture."""
        low, high = 0.05 * self.size, 0.95 * self.size
        return sum(low < min(x, y) and max(x, y) < high for x, y, _ in self.drills) >= 3

    def place(self, part: Part) -> bool:
        """Put a part on a random spot if all cells under it are free."""
        left, top, right, bottom = part.extent()
        span = self.cells - 1
        if right - left > span or bottom - top > span:
            return False
        x = int(self.rng.integers(int(-left), int(span - right) + 1))
        y = int(self.rng.integers(int(-top), int(span - bottom) + 1))
        columns, rows = range(int(x + left), int(x + right) + 2), range(int(y + top), int(y + bottom) + 2)
        inside = [(c, r) for r in rows for c in columns if 0 <= c < self.cells and 0 <= r < self.cells]
        if not all(self.free(c, r) for c, r in inside):
            return False
        for pad in part.pads:
            self.add_pad(x + pad.x, y + pad.y, pad, pin=True)
        self.print_outline(part, x, y)
        return True

    def add_pad(self, x: float, y: float, pad: Pad, *, pin: bool, net: int = 0) -> None:
        """Draw a pad with its hole and claim the cells around it."""
        if not net:
            self.nets += 1
        net = net or self.nets
        centre, half_w, half_h = self.px(x, y), self.thick(pad.width) // 2, self.thick(pad.height) // 2
        for mask in (self.copper, self.pads) if pin or self.open_vias else (self.copper,):
            if pad.round:
                cv2.circle(mask, centre, half_w, 1, -1)
            else:
                corner = (centre[0] - half_w, centre[1] - half_h)
                cv2.rectangle(mask, corner, (centre[0] + half_w, centre[1] + half_h), 1, -1)
        if pad.hole:
            radius = self.thick(pad.hole) // 2
            cv2.circle(self.holes, centre, radius, 1, -1)
            if pin and pad.round:  # a square pad without its hole would look like a surface pad
                self.drills.append((*centre, 2 * radius + 1))
        spare = self.trace / 2 + CLEARANCE
        self.claim(x, y, pad.width / 2 + spare, pad.height / 2 + spare, net)
        if pin:
            self.pins.append((round(x), round(y), net))

    def print_outline(self, part: Part, x: int, y: int) -> None:
        """Print the part's outline and designator."""
        x0, y0, x1, y1 = part.outline
        low, high = self.px(x + x0, y + y0), self.px(x + x1, y + y1)
        line = max(1, round(2 * self.scale))
        middle = ((low[0] + high[0]) // 2, (low[1] + high[1]) // 2)
        if part.disc:
            cv2.circle(self.silk, middle, max(1, (high[0] - low[0]) // 2), 1, line)
        else:
            cv2.rectangle(self.silk, low, high, 1, line)
            cv2.circle(self.silk, (low[0] + 4 * line, low[1] + 4 * line), line, 1, -1)  # pin-one dot
        self.marks += 1
        text = f"{part.letter}{self.marks}"
        place = (low[0], low[1] - 3 * line) if part.letter != "U" else (middle[0] - 6 * line, middle[1] + 4 * line)
        cv2.putText(self.silk, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * self.scale, 1, line)

    def connect_pins(self) -> None:
        """Connect pins to near pins of other nets, or lead them out to a via."""
        order = self.rng.permutation(len(self.pins))
        done: set[int] = set()
        for i in order:
            x, y, net = self.pins[i]
            if net in done or self.rng.random() < 0.12:  # some pins are not connected
                continue
            others = [p for p in self.pins if p[2] != net and p[2] not in done]
            others.sort(key=lambda p: (p[0] - x) ** 2 + (p[1] - y) ** 2)
            target = next((p for p in others[1:9] if self.route(x, y, net, *p)), None)
            if target:
                done |= {net, target[2]}
            else:
                self.wander(width=self.trace, margin=0, start=(x, y, net))

    def route(self, x0: int, y0: int, net: int, x1: int, y1: int, other: int) -> bool:
        """Try the ways of one diagonal and one or two straight runs between two pins; draw the first that is free."""
        width = self.trace * float(self.rng.choice([1.0, 1.0, 1.35]))
        for cells in _octilinear(x0, y0, x1, y1):
            if self.is_free_way(cells, net, other):
                self.draw(cells, width, net, margin=0)
                return True
        return False

    def is_free_way(self, cells: list[tuple[int, int]], *nets: int) -> bool:
        """Return whether the cells are free, and those beside each diagonal step too."""
        for (x, y), (u, v) in pairwise(cells):
            if not self.free(u, v, *nets):
                return False
            if x != u and y != v and not (self.free(x, v, *nets) and self.free(u, y, *nets)):
                return False
        return True

    def draw(self, cells: list[tuple[int, int]], width: float, net: int, margin: int) -> None:
        """Draw a trace through the cells and claim them, those beside diagonal steps and the margin."""
        points = [self.px(*c) for c in cells]
        cv2.polylines(self.copper, [np.array(points, np.int32)], False, 1, self.thick(width))
        for (x, y), (u, v) in pairwise(cells):
            for column, row in {(x, y), (u, v), (x, v), (u, y)}:
                self.claim(column, row, margin + 0.1, margin + 0.1, net)

    def wander(self, *, width: float, margin: int, start: tuple[int, int, int] | None = None) -> None:
        """Draw a trace that runs straight, bends by 45 degrees now and then and ends in a via or off the picture."""
        rng = self.rng
        self.nets += start is None
        x, y, net = start or (*(int(v) for v in rng.integers(0, self.cells, 2)), self.nets)
        heading = int(rng.integers(8))
        cells, length = [(x, y)], int(rng.integers(5, 26))
        if not start and not self.has_room(x, y, margin, net):
            return
        for _ in range(length):
            turns = [heading, *((heading + t) % 8 for t in rng.permutation([-1, 1]))]
            if rng.random() < 0.12 and len(cells) > 2:
                turns = turns[::-1]
            for turn in turns:
                u, v = cells[-1][0] + STEPS[turn][0], cells[-1][1] + STEPS[turn][1]
                if self.is_free_way([cells[-1], (u, v)], net) and self.has_room(u, v, margin, net):
                    cells.append((u, v))
                    heading = turn
                    break
            else:
                break
        while len(cells) >= MIN_CELLS and not self.can_end(*cells[-1], net):
            cells.pop()
        if len(cells) < MIN_CELLS or not (start or self.can_end(x, y, net)):
            return
        self.draw(cells, width, net, margin)
        size = VIA * max(1.0, 1.5 * width)
        for column, row in cells[start is not None and -1 :: len(cells) - 1]:
            if self.on_picture(column, row):
                self.add_pad(column, row, Pad(0, 0, size, size, VIA_HOLE, True), pin=False, net=net)

    def can_end(self, x: int, y: int, net: int) -> bool:
        """Return whether a trace may end here: with room for a via, or off the picture."""
        return not self.on_picture(x, y) or self.has_room(x, y, 1, net)

    def on_picture(self, x: int, y: int) -> bool:
        """Return whether a cell is not one of the ring around the picture."""
        return 0 < x < self.cells - 1 and 0 < y < self.cells - 1

    def has_room(self, x: int, y: int, margin: int, net: int) -> bool:
        """Return whether the cells around one are free or the net's own, as far as they are on the board."""
        around = range(-margin, margin + 1)
        return all(
            self.free(x + i, y + j, net)
            for i in around
            for j in around
            if 0 <= x + i < self.cells and 0 <= y + j < self.cells
        )

    def add_area(self) -> None:
        """Fill a part of the board with ground copper that keeps its distance from everything else."""
        rng, size = self.rng, self.size
        x0, y0 = rng.uniform(-0.2, 0.6, 2) * size
        x1, y1 = (x0, y0) + rng.uniform(0.3, 0.8, 2) * size
        cut = 0.1 * size
        corners = [(x0 + cut, y0), (x1 - cut, y0), (x1, y0 + cut), (x1, y1 - cut), (x1 - cut, y1), (x0 + cut, y1)]
        area = np.zeros((size, size), np.uint8)
        cv2.fillPoly(area, [np.array([*corners, (x0, y1 - cut), (x0, y0 + cut)], np.int32)], 1)
        gap = self.thick(0.6) * 2 + 1
        area[cv2.dilate(self.copper | self.outside, np.ones((gap, gap), np.uint8)) > 0] = 0
        # A brush that is pushed through leaves no slivers, as design rules demand.
        brush = np.ones((self.thick(1.1), self.thick(1.1)), np.uint8)
        self.copper |= cv2.morphologyEx(area, cv2.MORPH_OPEN, brush).astype(np.uint8)

    def finish(self) -> Layout:
        """Drill the holes, keep print off open copper, and return the masks."""
        self.copper[(self.holes | self.outside) > 0] = 0
        keep_off = cv2.dilate(self.pads | self.outside, np.ones((5, 5), np.uint8)).astype(np.uint8) | self.holes
        self.silk[keep_off > 0] = 0
        drills = np.array(self.drills, np.int32).reshape(-1, 3)
        return Layout(self.copper, self.holes, self.pads, self.silk, self.outside, drills, self.scale)


def _octilinear(x0: int, y0: int, x1: int, y1: int) -> Iterator[list[tuple[int, int]]]:
    """Yield cell paths between two cells: straight then diagonal, diagonal then straight, diagonal in the middle."""
    dx, dy = x1 - x0, y1 - y0
    diagonal, straight = min(abs(dx), abs(dy)), abs(abs(dx) - abs(dy))
    slant = (int(np.sign(dx)), int(np.sign(dy)))
    run = (slant[0], 0) if abs(dx) > abs(dy) else (0, slant[1])
    for before in sorted({straight, 0, straight // 2}, reverse=True):
        cells = [(x0, y0)]
        for step in [run] * before + [slant] * diagonal + [run] * (straight - before):
            cells.append((cells[-1][0] + step[0], cells[-1][1] + step[1]))
        yield cells
