"""Draw the routing map: one row per defect class, one column per expert."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from ultra_dsmoe.explain.plots.canvas import as_png, canvas
from ultra_dsmoe.explain.routing import RoutingMap
from ultra_dsmoe.nn.neck.expert_gate import KINDS, UNIVERSAL

COLOURS = ("#d55e00", "#0072b2", "#7f7f7f")  # local, global, cross-modal: told apart by colour-blind eyes too
CELL, LABELS, ROW = 0.34, 4.2, 0.42  # inches: width of a column, room beside them, height of a row
PAD = 0.1  # inches around axes
UNUSED_AT = 0.03  # of the highest bar: where the word stands
NUMBERED = 20  # cells from this many per cent on carry their number
DARK = 60  # and from here on it is written in white
LETTER = 0.56  # mean width of a letter in font sizes, for breaking lines


@dataclass(frozen=True)
class Chart:
    """Rows against experts, as `draw_chart` draws them.

    Attributes:
        share: Share of each row's images sent to each expert, (R, N).
        usage: Share of all images sent to each expert, (N,).
        rows: Label of each row.
        framed: Row whose cell is framed, by expert, -1 for none, (N,).
        scale: What the colours mean.
        heading: Paragraphs above.
        footer: Paragraphs below.
    """

    share: np.ndarray
    usage: np.ndarray
    rows: list[str]
    framed: np.ndarray
    scale: str
    heading: list[str]
    footer: list[str]


def draw(routes: RoutingMap, title: str) -> bytes:
    """Return the picture as PNG.

    Args:
        routes: What to draw.
        title: First line, such as the model's name.
    """
    counts = routes.present.sum(0)
    footer = experts_explained(routes.chosen)
    if (routes.own_class >= 0).any():
        footer += " Orange frame: the class whose description the expert carries."
    chart = Chart(
        share=routes.share,
        usage=routes.usage,
        rows=[f"{name}  ({n} images)" for name, n in zip(routes.rows, counts, strict=True)],
        framed=routes.own_class,
        scale="images of the class sent\nto the expert (%)",
        heading=[title, sentence(routes)],
        footer=[footer],
    )
    return draw_chart(chart)


def sentence(routes: RoutingMap) -> str:
    """Say in one sentence whether routing depends on the defect."""
    chance, high = routes.shuffled.mean(), np.percentile(routes.shuffled, 95)
    start = "Experts" if routes.depends_on_class else "No sign that experts"
    return (
        f"{start} depend on the defect class: one expert tells {routes.bits:.3f} of the {routes.class_bits:.2f} bit "
        f"that name it; by chance it would be {chance:.3f} (95 % of {len(routes.shuffled)} shuffles below {high:.3f})"
    )


def experts_explained(chosen: np.ndarray) -> str:
    """Say what the experts are, from which image was sent to which, (I, N)."""
    return (
        f"Each image is sent to {int(chosen[0].sum())} of {chosen.shape[1]} experts. Expert 0 (local) looks along rows "
        "and columns, expert 1 (global) at wide surroundings, experts from 2 on (cross-modal) join image and class "
        "description."
    )


def draw_chart(chart: Chart) -> bytes:
    """Return rows against experts as PNG: a bar per expert, and below it the share of every row."""
    rows, experts = chart.share.shape
    layout = ConstrainedLayoutEngine(w_pad=PAD, h_pad=PAD)
    width = LABELS + CELL * experts
    figure = canvas(width, 4.4 + ROW * rows, layout)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.5, ROW * rows + 0.2), width_ratios=(60, 1))
    heat = figure.add_subplot(grid[1, 0])
    bars = figure.add_subplot(grid[0, 0], sharex=heat)
    scale = figure.add_subplot(grid[1, 1])
    bar = figure.colorbar(_heat(heat, chart), cax=scale)
    bar.set_label(chart.scale, fontsize=9)
    _bars(bars, 100 * chart.usage)
    figure.suptitle(broken(chart.heading, width, 11), fontsize=11, ha="left", x=0.01)
    figure.supxlabel(broken(chart.footer, width, 9), fontsize=9, ha="left", x=0.01)
    return as_png(figure)


def broken(paragraphs: list[str], inches: float, size: float) -> str:
    """Return text broken into lines of at most ``inches`` at a font size in points."""
    letters = int(72 * inches / (LETTER * size))
    return "\n".join(line for text in paragraphs for line in textwrap.wrap(text, letters))


def _heat(axes: Axes, chart: Chart) -> AxesImage:
    share = 100 * chart.share
    rows, experts = share.shape
    image = axes.imshow(share, aspect="auto", cmap="Blues", vmin=0, vmax=100)
    for (row, column), value in np.ndenumerate(share):
        if value >= NUMBERED:
            ink = "w" if value > DARK else "k"
            axes.text(float(column), float(row), f"{value:.0f}", ha="center", va="center", fontsize=7, color=ink)
        if chart.framed[column] == row:
            axes.add_patch(_frame(column, row))
    axes.set_yticks(range(rows), chart.rows)
    axes.set_xticks(range(experts), [str(n) for n in range(experts)], fontsize=8)
    for n, label in enumerate(axes.get_xticklabels()):
        label.set_color(COLOURS[min(n, UNIVERSAL)])
    axes.set_xlabel("expert")
    axes.vlines(UNIVERSAL - 0.5, -0.5, rows - 0.5, colors="k", linewidth=1)
    return image


def _frame(column: int, row: int) -> Rectangle:
    return Rectangle((column - 0.47, row - 0.46), 0.94, 0.92, fill=False, edgecolor="#e69f00", linewidth=1.4)


def _bars(axes: Axes, usage: np.ndarray) -> None:
    axes.bar(range(len(usage)), usage, color=[COLOURS[min(n, UNIVERSAL)] for n in range(len(usage))], width=0.8)
    axes.set_ylabel("all images (%)", fontsize=9)
    axes.tick_params(labelbottom=False)
    axes.axvline(UNIVERSAL - 0.5, color="k", linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)
    for n in np.flatnonzero(usage == 0).tolist():
        axes.text(n, UNUSED_AT * usage.max(), "unused", rotation=90, ha="center", va="bottom", fontsize=7)
    handles = [axes.bar(0, 0, color=c, label=k) for c, k in zip(COLOURS, KINDS, strict=True)]
    axes.legend(handles=handles, fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
