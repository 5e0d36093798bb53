"""Draw the routing map: one row per defect class, one column per expert."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ultra_dsmoe.explain.routing import KINDS, RoutingMap
from ultra_dsmoe.nn.neck.expert_gate import UNIVERSAL

DPI = 150
COLOURS = ("#d55e00", "#0072b2", "#7f7f7f")  # local, global, cross-modal: told apart by colour-blind eyes too
CELL, LABELS, ROW = 0.34, 4.2, 0.42  # inches: width of a column, room beside them, height of a row
PAD = 0.1  # inches around axes
UNUSED_AT = 0.03  # of the highest bar: where the word stands
NUMBERED = 20  # cells from this many per cent on carry their number
DARK = 60  # and from here on it is written in white


def draw(routes: RoutingMap, title: str) -> bytes:
    """Return the picture as PNG.

    Args:
        routes: What to draw.
        title: First line, such as the model's name.
    """
    classes, experts = routes.share.shape
    layout = ConstrainedLayoutEngine(w_pad=PAD, h_pad=PAD)
    figure = Figure(figsize=(LABELS + CELL * experts, 4.4 + ROW * classes), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.5, ROW * classes + 0.2), width_ratios=(60, 1))
    heat = figure.add_subplot(grid[1, 0])
    bars = figure.add_subplot(grid[0, 0], sharex=heat)
    scale = figure.add_subplot(grid[1, 1])
    image = _heat(heat, routes)
    bar = figure.colorbar(image, cax=scale)
    bar.set_label("images of the class sent\nto the expert (%)", fontsize=9)
    _bars(bars, routes)
    figure.suptitle(f"{title}\n{sentence(routes)}", fontsize=11, ha="left", x=0.01)
    figure.supxlabel(_legend(routes), fontsize=9, ha="left", x=0.01)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def sentence(routes: RoutingMap) -> str:
    """Say in one sentence whether routing depends on the defect."""
    chance, high = routes.shuffled.mean(), np.percentile(routes.shuffled, 95)
    start = "Experts" if routes.depends_on_class else "No sign that experts"
    return (
        f"{start} depend on the defect class: one expert tells {routes.bits:.3f} of the {routes.class_bits:.2f} bit "
        f"that name it; by chance it would be {chance:.3f} (95 % of {len(routes.shuffled)} shuffles below {high:.3f})"
    )


def _heat(axes: Axes, routes: RoutingMap):
    share = 100 * routes.share
    classes, experts = share.shape
    image = axes.imshow(share, aspect="auto", cmap="Blues", vmin=0, vmax=100)
    for (row, column), value in np.ndenumerate(share):
        if value >= NUMBERED:
            ink = "w" if value > DARK else "k"
            axes.text(float(column), float(row), f"{value:.0f}", ha="center", va="center", fontsize=7, color=ink)
        if routes.own_class[column] == row:
            axes.add_patch(_frame(column, row))
    counts = routes.present.sum(0)
    axes.set_yticks(range(classes), [f"{name}  ({n} images)" for name, n in zip(routes.rows, counts, strict=True)])
    axes.set_xticks(range(experts), [str(n) for n in range(experts)], fontsize=8)
    for n, label in enumerate(axes.get_xticklabels()):
        label.set_color(COLOURS[min(n, UNIVERSAL)])
    axes.set_xlabel("expert")
    axes.vlines(UNIVERSAL - 0.5, -0.5, classes - 0.5, colors="k", linewidth=1)
    return image


def _frame(column: int, row: int):
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.47, row - 0.46), 0.94, 0.92, fill=False, edgecolor="#e69f00", linewidth=1.4)


def _bars(axes: Axes, routes: RoutingMap) -> None:
    usage = 100 * routes.usage
    axes.bar(range(len(usage)), usage, color=[COLOURS[min(n, UNIVERSAL)] for n in range(len(usage))], width=0.8)
    axes.set_ylabel("all images (%)", fontsize=9)
    axes.tick_params(labelbottom=False)
    axes.axvline(UNIVERSAL - 0.5, color="k", linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)
    for n in np.flatnonzero(usage == 0).tolist():
        axes.text(n, UNUSED_AT * usage.max(), "unused", rotation=90, ha="center", va="bottom", fontsize=7)
    handles = [axes.bar(0, 0, color=c, label=k) for c, k in zip(COLOURS, KINDS, strict=True)]
    axes.legend(handles=handles, fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)


def _legend(routes: RoutingMap) -> str:
    k = int(routes.chosen[0].sum())
    lines = [
        f"Each image is sent to {k} of {routes.weights.shape[1]} experts. Expert 0 (local) looks along rows and "
        "columns, expert 1 (global) at wide surroundings,",
        "experts from 2 on (cross-modal) join image and class description.",
    ]
    if (routes.own_class >= 0).any():
        lines[-1] += " Orange frame: the class whose description the expert carries."
    return "\n".join(lines)
