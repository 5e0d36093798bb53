"""Draw how far a net with a known-good reference bears that image and reference do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from ultra_dsmoe.explain.plots.canvas import as_png, canvas

if TYPE_CHECKING:
    from ultra_dsmoe.evaluate.reference_robustness import Line

SIZE = (11, 6.2)  # inches
KINDS = ("shift", "rotation", "exposure", "blur")
# Net and registration: how it is drawn; colours that colour-blind eyes tell apart too.
SERIES = {
    ("with reference", "none"): ("with reference, registration off", "#0072b2", "-"),
    ("with reference", "affine"): ("with reference, registration on", "#009e73", "-"),
    ("without", ""): ("without reference", "#d55e00", "--"),
}


def draw(lines: Sequence[Line], title: str) -> bytes:
    """Return the picture as PNG.

    Args:
        lines: What was measured, the undisturbed condition first.
        title: First line, such as the model's name.
    """
    figure = canvas(*SIZE)
    grid = figure.subplots(2, 3)
    top = max(100 * line.map50_95 for line in lines) * 1.15 or 1
    for axes, kind in zip((grid[0, 0], grid[0, 1], grid[0, 2], grid[1, 0]), KINDS, strict=True):
        _lines(axes, lines, kind)
        axes.set_ylim(0, top)
    _bars(grid[1, 1], lines)
    grid[1, 1].set_ylim(0, top)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    grid[1, 2].axis("off")
    grid[1, 2].legend(handles, labels, loc="center", frameon=False)
    figure.suptitle(title, fontsize=11)
    return as_png(figure)


def _lines(axes: Axes, lines: Sequence[Line], kind: str) -> None:
    """Draw mAP50-95 over the amount of one kind of condition; amount 0 is the undisturbed one."""
    base = lines[0].condition.kind
    unit = next(line.condition.unit for line in lines if line.condition.kind == kind)
    for (net, align), (label, colour, style) in SERIES.items():
        chosen = [ln for ln in lines if (ln.net, ln.align) == (net, align) and ln.condition.kind in (kind, base)]
        points = sorted((line.condition.amount, 100 * line.map50_95) for line in chosen)
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color=colour, linestyle=style, label=label)
    axes.set_xlabel(f"{kind}, {unit}")
    _tidy(axes)


def _bars(axes: Axes, lines: Sequence[Line]) -> None:
    """Draw mAP50-95 where the reference is another product's or missing."""
    kinds = [lines[0].condition.kind, "wrong reference", "no reference"]
    for offset, (series, (_, colour, _)) in zip((-0.27, 0, 0.27), SERIES.items(), strict=True):
        here = {ln.condition.kind: 100 * ln.map50_95 for ln in lines if (ln.net, ln.align) == series}
        shown = [i for i, kind in enumerate(kinds) if kind in here]
        axes.bar([i + offset for i in shown], [here[kinds[i]] for i in shown], width=0.25, color=colour)
    axes.set_xticks(range(len(kinds)), kinds, fontsize=8)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.set_ylabel("mAP50-95, points")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
