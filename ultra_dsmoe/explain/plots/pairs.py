"""Draw pictures and their texts: where their vectors lie, how they are weighed, and what some of them are."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D
from PIL import Image

from ultra_dsmoe.explain.pairs import PARTS, Pairs
from ultra_dsmoe.explain.plots.canvas import as_png, canvas

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")  # Okabe and Ito
KINDS = (("picture", "o"), ("first text", "^"), ("second text", "s"))
PANEL, COLUMNS, LETTERS = 4.6, 4, 46  # inches; pairs in a row; letters in a line of a text
BARS = ("#e69f00", "#56b4e9", "#0072b2")  # of the weights


def draw_vectors(panels: Sequence[tuple[str, Pairs, np.ndarray]], title: str) -> bytes:
    """Return the picture as PNG: a panel for each state of the net.

    Args:
        panels: What stands above, the pairs, and their points (3, I, 2).
        title: First line.
    """
    figure = canvas(PANEL * len(panels), PANEL + 1.3)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, (head, pairs, points) in zip(axes, panels, strict=True):
        for (_, marker), own in zip(KINDS, points, strict=True):
            colours = [COLOURS[c % len(COLOURS)] for c in pairs.target]
            panel.scatter(*own.T, c=colours, marker=marker, s=14, alpha=0.6, linewidths=0)
        alike, others = pairs.likeness.mean(), pairs.likeness_of_others()
        said = f"cosine of a picture and its texts {alike:.2f}, of other classes' {others:.2f}"
        panel.set_title(f"{head}\n{said}", fontsize=9)
        panel.set_xticks([])
        panel.set_yticks([])
    names = panels[0][1].names
    marks = [Line2D([], [], marker=m, ls="", color="0.4", label=kind) for kind, m in KINDS]
    marks += [Line2D([], [], marker="o", ls="", color=COLOURS[c % len(COLOURS)], label=n) for c, n in enumerate(names)]
    figure.legend(handles=marks, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    return as_png(figure)


def draw_weights(pairs: Pairs, title: str) -> bytes:
    """Return the weights W as PNG: means of each class, with the spread between its pictures."""
    assert pairs.weights is not None
    classes = [c for c in range(len(pairs.names)) if (pairs.target == c).any()]
    figure = canvas(1.6 + 1.1 * len(classes), 3.8)
    axes = figure.subplots()
    for i, (part, colour) in enumerate(zip(PARTS, BARS, strict=True)):
        own = [pairs.weights[pairs.target == c, i] for c in classes]
        places = np.arange(len(classes)) + 0.27 * (i - 1)
        spread = [w.std() for w in own]
        axes.bar(places, [w.mean() for w in own], 0.25, yerr=spread, color=colour, label=part, capsize=2)
    axes.set_xticks(range(len(classes)), [pairs.names[c] for c in classes], rotation=20, ha="right", fontsize=8)
    axes.set_ylabel("weight W, mean and spread")
    axes.set_ylim(0 if pairs.weights.min() >= 0 else None, 1.05 if pairs.weights.max() <= 1 else None)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    return as_png(figure)


def draw_pairs(pairs: Pairs, which: Sequence[int], title: str) -> bytes:
    """Return some pictures with their texts as PNG."""
    rows = -(-len(which) // COLUMNS)
    figure = canvas(3.4 * COLUMNS, 3.6 * rows + 0.5)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for panel in axes:
        panel.axis("off")
    for panel, i in zip(axes, which, strict=False):
        panel.imshow(Image.open(pairs.files[i]).convert("RGB"))
        panel.set_title(f"{pairs.names[pairs.target[i]]}, likeness {pairs.likeness[i]:.2f}", fontsize=9)
        lines = [line for said in pairs.texts[i][:2] for line in textwrap.wrap(f"- {said}", LETTERS)]
        panel.text(0.5, -0.03, "\n".join(lines), transform=panel.transAxes, ha="center", va="top", fontsize=7)
    figure.suptitle(title, fontsize=11)
    return as_png(figure)
