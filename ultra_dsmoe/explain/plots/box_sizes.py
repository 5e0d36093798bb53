"""Draw the sizes of a data set's boxes: width against height with the centres of the clusters, and a histogram."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from ultra_dsmoe.data.box_sizes import CELLS, STRIDES, TINY, Boxes, Clusters
from ultra_dsmoe.explain.plots.canvas import as_png, canvas

SIZE = (12, 5.2)  # inches
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7")  # Okabe and Ito, for any eye
MOST = 20_000  # points drawn; more only thicken the cloud
BINS = 48
TICKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
MARGIN = 1.25  # beyond the outermost box


def draw(boxes: Boxes, clusters: Clusters, title: str) -> bytes:
    """Return the picture as PNG.

    Args:
        boxes: All boxes.
        clusters: Their clusters.
        title: First line, such as the data set's name.
    """
    figure = canvas(*SIZE)
    cloud, histogram = figure.subplots(1, 2)
    _cloud(cloud, boxes, clusters)
    _histogram(histogram, boxes)
    figure.suptitle(title, fontsize=11)
    return as_png(figure)


def _cloud(axes: Axes, boxes: Boxes, clusters: Clusters) -> None:
    """Draw width against height, each cluster in a colour, its number at its centre."""
    drawn = np.random.default_rng(0).permutation(len(boxes.sizes))[:MOST]
    colours = np.array(COLOURS)[clusters.members[drawn] % len(COLOURS)]
    width, height = boxes.sizes[drawn].T
    axes.scatter(width, height, s=5, c=colours, alpha=0.35, linewidths=0)
    for number, (x, y) in enumerate(clusters.centres, 1):
        axes.plot(x, y, "o", color="w", markeredgecolor="k", markersize=13)
        axes.text(x, y, str(number), ha="center", va="center", fontsize=8)
    low, high = boxes.sizes.min() / MARGIN, boxes.sizes.max() * MARGIN
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    for axis in (axes.xaxis, axes.yaxis):
        _pixels(axis, low, high)
    side = np.array([low, high])
    for name in list(STRIDES)[1:]:  # lines of equal area: above each of them the next level begins
        border = CELLS * STRIDES[name]
        axes.plot(side, border**2 / side, "--", color="0.45", linewidth=0.9)
        x = min(high, border**2 / low) / MARGIN  # near where it leaves the picture, to the right or below
        if x > low and border**2 / x < high:
            room = {"facecolor": "w", "edgecolor": "none", "pad": 1}
            axes.text(x, border**2 / x, f"{name} \u2197", fontsize=8, ha="center", va="center", bbox=room)
    axes.set_aspect("equal")
    axes.set_xlabel(f"width (px at {boxes.imgsz})")
    axes.set_ylabel(f"height (px at {boxes.imgsz})")
    axes.set_title("boxes, centres of the clusters, borders of the levels", fontsize=9)


def _histogram(axes: Axes, boxes: Boxes) -> None:
    """Draw how many boxes have which size, with the borders of the levels."""
    side = np.sqrt(boxes.sizes.prod(1))
    low, high = side.min() / MARGIN, side.max() * MARGIN
    edges = np.geomspace(low, high, BINS).tolist()
    for mask, colour, label in ((side < TINY, COLOURS[4], f"below {TINY} px"), (side >= TINY, COLOURS[3], "others")):
        axes.hist(side[mask], edges, color=colour, label=f"{label} ({100 * mask.mean():.1f} %)")
    axes.set(xscale="log", xlim=(low, high))
    _pixels(axes.xaxis, low, high)
    top = axes.get_ylim()[1] * 1.08
    axes.set_ylim(0, top)
    borders = [CELLS * stride for stride in STRIDES.values()][1:]
    for border in borders:
        if low < border < high:
            axes.axvline(border, color="0.45", linestyle="--", linewidth=0.9)
    inner = np.clip([low, *borders, high], low, high)
    for name, left, right in zip(STRIDES, inner, inner[1:], strict=False):
        if right > left * MARGIN:
            axes.text(np.sqrt(left * right), top * 0.97, name, ha="center", va="top", fontsize=9, color="0.3")
    axes.set_xlabel(f"root of the area (px at {boxes.imgsz})")
    axes.set_ylabel("boxes")
    axes.set_title(f"{len(side)} boxes", fontsize=9, loc="left")
    axes.legend(fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _pixels(axis: Axis, low: float, high: float) -> None:
    """Write powers of two out on a logarithmic axis; a tick outside would widen it."""
    axis.set_major_locator(FixedLocator([tick for tick in TICKS if low <= tick <= high]))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_locator(NullLocator())
