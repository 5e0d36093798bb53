"""Draw the weights of attentions over their image: a row for the neck, one for the class branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from matplotlib.colors import Normalize
from torch import Tensor

from ultra_dsmoe.explain.plots.canvas import as_png, canvas
from ultra_dsmoe.explain.plots.distill_masks import PANEL, SHOWN, lay_over, show_image

if TYPE_CHECKING:
    from ultra_dsmoe.explain.attention import LevelAttention

COLOURS = "inferno"
SHOWN_AT_LEAST = 0.02  # of the weights' mean: a smaller spread is drawn as one colour, not as a pattern


def draw(image: np.ndarray, boxes_xywh_norm: Tensor, looks: Sequence[LevelAttention], title: str) -> bytes:
    """Return the picture as PNG: the image, each attention over it, and all of them together.

    Args:
        image: Colours 0 to 255 in the host's order (RGB), (H, W, 3).
        boxes_xywh_norm: Centre and size as shares of the image, (N, 4).
        looks: What the attentions weigh, neck first.
        title: First line.
    """
    places, strides = list(dict.fromkeys(x.place for x in looks)), sorted({x.stride for x in looks})
    rows = max(len(places), 2)  # the image stands above what all attentions say together
    figure = canvas(PANEL * (len(strides) + 1), PANEL * rows)
    axes = figure.subplots(rows, len(strides) + 1, squeeze=False)
    for panel in axes.flat:
        panel.axis("off")
    show_image(axes[0, 0], image, boxes_xywh_norm)
    axes[0, 0].set_title(f"{len(boxes_xywh_norm)} boxes", fontsize=9)
    panels = [(axes[places.index(x.place), 1 + strides.index(x.stride)], x.weight, words(x)) for x in looks]
    panels.append((axes[1, 0], together(looks, image.shape[:2]), "all together"))
    for panel, weight, text in panels:
        show_image(panel, image, boxes_xywh_norm)
        low, high = np.percentile(weight, SHOWN)
        middle, half = (low + high) / 2, max(high - low, SHOWN_AT_LEAST) / 2
        mask = lay_over(panel, weight, image, Normalize(middle - half, middle + half), COLOURS)
        figure.colorbar(mask, ax=panel, fraction=0.046)
        panel.set_title(text, fontsize=9)
    figure.suptitle(f"{title}. Weight of a cell, 1 is the image's mean", fontsize=11)
    return as_png(figure)


def words(x: LevelAttention) -> str:
    """Return what stands above a panel."""
    said = f"{x.place}, stride {x.stride}"
    return f"{said}: boxes x {x.inside / x.outside:.2f}" if np.isfinite(x.inside + x.outside) else said


def together(looks: Sequence[LevelAttention], shape: tuple[int, ...]) -> np.ndarray:
    """Return the mean of all weights at the image's size, each brought there by bilinear resizing."""
    size = (int(shape[1]), int(shape[0]))
    return np.mean([cv2.resize(x.weight, size, interpolation=cv2.INTER_LINEAR) for x in looks], 0)
