"""Draw pairs: image with labels, reference and difference before registration, and both after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ultra_dsmoe.data.reference.references import ABSENT, UNREGISTERED, Loaded
from ultra_dsmoe.explain.plots.canvas import as_png, canvas

if TYPE_CHECKING:
    from ultra_dsmoe.explain.reference_pairs import Shown

PANEL, LINES, AROUND = 2.3, 0.25, 0.9  # inches: a picture, the line under it, title and legend
ACROSS, COLUMNS = 2, 5  # pairs in a row, pictures of a pair
GAP = 0.12  # between two pairs, of a picture's width
BRIGHTEST = 128  # difference in grey levels that is drawn white
COLOURS = ("#e6194b", "#00a2ff", "#3cb44b", "#f58231", "#c13cff", "#00b5a5", "#e5a700", "#8c5a2b", "#ff69b4", "#7f7fff")
SMALL, LARGE = 8, 12  # sizes of text
LOST = {ABSENT: "no reference", UNREGISTERED: "could not be laid on the image"}


def draw(pairs: Sequence[Shown], names: Sequence[str], align: str, title: str) -> bytes:
    """Return the picture as PNG, five pictures per pair.

    Args:
        pairs: What is shown.
        names: Of all classes; their order gives the colours.
        align: How references are laid on images in the right half.
        title: First line, such as the data set's name.
    """
    across = min(ACROSS, len(pairs))
    rows = -(-len(pairs) // across)
    figure = canvas(PANEL * COLUMNS * across, (PANEL + LINES) * rows + AROUND)
    widths = [*[1] * COLUMNS, GAP] * across
    axes = figure.subplots(rows, len(widths), squeeze=False, width_ratios=widths).reshape(-1, COLUMNS + 1)
    for gap in axes[:, COLUMNS]:
        gap.axis("off")
    places = axes[:, :COLUMNS]
    heads = ("image with its labels", "reference as it is", "difference", f"reference, align: {align}", "difference")
    for axis, head in zip(places[:across].flat, heads * across, strict=True):
        axis.set_title(head, fontsize=SMALL)
    shown = {kind for pair in pairs for kind in pair.classes}
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names) if name in shown}
    for row, pair in zip(places, pairs, strict=False):
        _show_labels(row[0], pair, colours)
        _show_reference(row[1], row[2], pair.image, pair.before)
        _show_reference(row[3], row[4], pair.image, pair.after)
    for axis in places[len(pairs) :].flat:
        axis.axis("off")
    lines = [Line2D([], [], color=colour, linewidth=3) for colour in colours.values()]
    if lines:
        many = min(len(lines), COLUMNS * across)
        figure.legend(lines, list(colours), loc="outside lower center", ncols=many, frameon=False)
    figure.suptitle(title, fontsize=LARGE)
    return as_png(figure)


def _show_labels(axis: Axes, pair: Shown, colours: dict[str, str]) -> None:
    """Show an image with its boxes, in the colours of their classes."""
    _show(axis, pair.image)
    for (x0, y0, x1, y1), kind in zip(pair.boxes_xyxy_px.tolist(), pair.classes, strict=True):
        box = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colours[kind], linewidth=1.5)
        axis.add_patch(box)
    axis.set_xlabel(pair.name, fontsize=SMALL)


def _show_reference(left: Axes, right: Axes, image: np.ndarray, loaded: Loaded) -> None:
    """Show a reference and how it differs from its image, or say why there is none."""
    said = [f"mismatch {loaded.mismatch:.2f}"] if loaded.mismatch is not None else []
    said += [f"quality {loaded.quality:.2f}"] if loaded.quality is not None else []
    left.set_xlabel(", ".join(said), fontsize=SMALL)
    if loaded.state in LOST:
        for axis in (left, right):
            _show(axis, np.full_like(image, 230))
        left.text(0.5, 0.5, LOST[loaded.state], ha="center", va="center", transform=left.transAxes, fontsize=SMALL)
        return
    reference = loaded.pixels[..., ::-1]
    difference = np.abs(image.astype(np.int16) - reference).mean(axis=2)
    _show(left, reference)
    _show(right, difference, cmap="gray", vmin=0, vmax=BRIGHTEST)
    right.set_xlabel(f"mean {difference.mean():.1f} grey levels", fontsize=SMALL)


def _show(axis: Axes, picture: np.ndarray, **how: Any) -> None:
    """Show a picture without ticks."""
    axis.imshow(picture, interpolation="antialiased", **how)
    axis.set_xticks([])
    axis.set_yticks([])
