"""Draw the Poincaré disk: classes and groups, geodesics between parent and child, names beside it."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from ultra_dsmoe.explain.plots.canvas import as_png, canvas
from ultra_dsmoe.explain.plots.routing_map import broken
from ultra_dsmoe.explain.poincare_disk import SHUFFLES, Disk, geodesic

RADIUS = 2.9  # inches of the disk
LINE = 0.2  # inches from one name to the next in a column
LETTER = 0.085  # inches, a wide letter at FONT
FONT = 9
TEXT_ROOM = 1.4  # inches above and below for what the picture says
GAP = 0.12  # of the radius, between disk and names
EDGE = 0.03  # of the radius, above and below the disk
RINGS = (1, 2, 3, 4)  # distances from the centre that are marked
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito, for any eye
ORDERED = 0.5  # rank correlation below which neighbours on the disk say little about the ball (our choice)
SURE = 0.05  # share of random regroupings below which the taxonomy shows (our choice, as for the routes)
ALONE = "0.35"  # colour of what hangs on no group


def draw(disk: Disk, title: str) -> bytes:
    """Return the picture as PNG.

    Args:
        disk: What to draw.
        title: First line, such as the model's name.
    """
    return as_png(figure_of(disk, title))


def figure_of(disk: Disk, title: str) -> Figure:
    """Return the picture as matplotlib's figure."""
    left, right = sides(disk.points)
    radius = max(RADIUS, LINE * max(len(left), len(right)) / 2)
    names = LETTER * max(len(name) for name in disk.names) / radius  # in radii, as all that follows
    half = 1 + GAP + names + GAP
    inches = 2 * half * radius
    figure = canvas(inches, 2 * (1 + EDGE) * radius + TEXT_ROOM)
    axes = figure.add_subplot()
    axes.set(xlim=(-half, half), ylim=(-1 - EDGE, 1 + EDGE), aspect="equal")
    axes.set_axis_off()
    _rings(axes)
    for parent, child in disk.edges:
        way = geodesic(disk.points[parent], disk.points[child])
        axes.plot(way.real, way.imag, color=_colour(disk, child), linewidth=1.3, zorder=2)
    for side, column in ((-1, left), (1, right)):
        _names(axes, disk, column, side, LINE / radius)
    _nodes(axes, disk)
    figure.suptitle(broken([title, kept(disk)], inches, 10), fontsize=10, ha="left", x=0.01)
    figure.supxlabel(broken([found(disk), _legend(disk)], inches, FONT), fontsize=FONT, ha="left", x=0.01)
    return figure


def kept(disk: Disk) -> str:
    """Say what of the ball the disk keeps."""
    text = "Distances to the centre are exact"
    if len(disk.names) > 1:
        off = 100 * disk.stress
        text += f"; distances between nodes, {disk.dimensions} dimensions in two, are off by {off:.0f} % (stress)"
    if (rank := disk.rank_correlation) is not None:
        text += f", those between classes keep their order at rank correlation {rank:.2f}"
        if rank < ORDERED:
            text += ": do not read neighbourhoods from it"
    return text


def found(disk: Disk) -> str:
    """Say what the ball itself holds, which the disk may hide."""
    if not disk.edges:
        return "No taxonomy: classes alone."
    text = f"In the ball {disk.ordered} of {len(disk.edges)} children are farther out than their parent"
    if (kin := disk.kin()) is None:
        return text + "."
    near, far, chance = kin
    start = "" if chance < SURE else "no sign that "
    return (
        f"{text}; {start}classes of one parent are nearer to each other: {near:.2f} apart on average, others {far:.2f} "
        f"(as near or nearer in {100 * chance:.0f} % of {SHUFFLES} random regroupings)."
    )


def sides(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which nodes are named on the left and which on the right, each from bottom to top."""
    order = np.argsort(points.real, kind="stable")
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    return halves[0][np.argsort(points[halves[0]].imag)], halves[1][np.argsort(points[halves[1]].imag)]


def heights(wanted: np.ndarray, gap: float, limit: float = 1.0) -> np.ndarray:
    """Move ascending heights apart, as little as it takes.

    Args:
        wanted: Ascending heights, (n,).
        gap: Least distance of neighbours.
        limit: Heights end up within -limit and limit, where n of them find room there.
    """
    placed = wanted.copy()
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    top = limit
    for i in range(len(placed) - 1, -1, -1):
        placed[i] = min(placed[i], top)
        top = placed[i] - gap
    return placed


def _rings(axes: Axes) -> None:
    """Draw the boundary, the centre, and circles at whole distances from it."""
    axes.add_patch(Circle((0, 0), 1, fill=False, edgecolor="k", linewidth=1.4))
    axes.plot(0, 0, "+", color="0.5", markersize=7)
    for ring in RINGS:
        radius = np.tanh(ring / 2)
        axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor="0.85", linewidth=0.8, zorder=0))
        axes.text(0, -radius, str(ring), fontsize=7, color="0.6", ha="center", va="center", zorder=1).set_bbox(
            {"facecolor": "w", "edgecolor": "none", "pad": 0.5}
        )


def _names(axes: Axes, disk: Disk, column: np.ndarray, side: int, gap: float) -> None:
    """Write the names of a column, each with a line to its node."""
    points = disk.points[column]
    x = side * (1 + GAP)
    for node, point, y in zip(column.tolist(), points, heights(points.imag, gap), strict=True):
        axes.plot([x, point.real], [y, point.imag], color="0.75", linewidth=0.6, zorder=1)
        axes.text(
            *(x + side * GAP / 4, y, disk.names[node]),
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=FONT,
            color=_colour(disk, node),
            style="normal" if node < disk.num_classes else "italic",
            parse_math=False,
        )


def _nodes(axes: Axes, disk: Disk) -> None:
    for node, point in enumerate(disk.points):
        mark = "o" if node < disk.num_classes else "s"
        axes.plot(point.real, point.imag, mark, color=_colour(disk, node), markeredgecolor="w", markersize=8, zorder=3)


def _colour(disk: Disk, node: int) -> str:
    """Return the colour of a node: a group's own, a class's that of its parent."""
    group = node if node >= disk.num_classes else int(disk.parents[node])
    return COLOURS[(group - disk.num_classes) % len(COLOURS)] if group >= 0 else ALONE


def _legend(disk: Disk) -> str:
    text = "Round: class anchors. Circles: distance 1, 2, 3, 4 from the centre; the edge is infinitely far."
    if disk.edges:
        text += (
            " Square, in italics: groups of the taxonomy, by construction in the mean direction of their classes and at"
            " a radius of their own; arcs: geodesics from parent to child."
        )
    return text
