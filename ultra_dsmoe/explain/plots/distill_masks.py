"""Draw scale and attention masks over their image, one column per level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from torch import Tensor

from ultra_dsmoe.explain.plots.canvas import as_png, canvas

if TYPE_CHECKING:
    from ultra_dsmoe.explain.distill_masks import LevelMasks

PANEL = 3.1  # inches
BOX = "#00e5ff"
FAINT = 0.35  # of the image behind a mask
SHOWN = (1, 99)  # per cent of an attention's cells within its colours


def draw(image: np.ndarray, boxes_xywh_norm: Tensor, levels: Sequence[LevelMasks], title: str) -> bytes:
    """Return the picture as PNG: the image with its boxes, above every level's scale mask and attention mask.

    Args:
        image: Colours 0 to 255 in the host's order (RGB), (H, W, 3).
        boxes_xywh_norm: Centre and size as shares of the image, (N, 4).
        levels: Masks of each level.
        title: First line, such as the model's name.
    """
    columns = len(levels) + 1
    figure = canvas(PANEL * columns, PANEL * 2)
    axes = figure.subplots(2, columns, squeeze=False)
    show_image(axes[0, 0], image, boxes_xywh_norm)
    axes[0, 0].set_title(f"{len(boxes_xywh_norm)} boxes", fontsize=9)
    axes[1, 0].axis("off")
    highest = max(level.scale.max() for level in levels)
    lowest = min(level.scale.min() for level in levels)
    for column, level in enumerate(levels, 1):
        show_image(axes[0, column], image, boxes_xywh_norm)
        scale = lay_over(axes[0, column], level.scale, image, LogNorm(lowest, highest), "viridis")
        figure.colorbar(scale, ax=axes[0, column], fraction=0.046)
        axes[0, column].set_title(f"stride {level.stride}: scale mask, weight of a cell", fontsize=9)
        show_image(axes[1, column], image, boxes_xywh_norm)
        low, high = np.percentile(level.attention, SHOWN)
        seen = lay_over(axes[1, column], level.attention, image, Normalize(low, max(high, low + 1e-6)), "magma")
        whose = "its own" if level.own else "of activation"
        axes[1, column].set_title(f"attention mask, {whose}", fontsize=9)
        figure.colorbar(seen, ax=axes[1, column], fraction=0.046)
    figure.suptitle(title, fontsize=11)
    return as_png(figure)


def show_image(axes: Axes, image: np.ndarray, boxes: Tensor) -> None:
    """Show an image (H, W, 3) with its boxes, centre and size as shares of it, (N, 4)."""
    height, width = image.shape[:2]
    axes.imshow(image, interpolation="nearest")
    for x, y, w, h in boxes.tolist():
        corner = ((x - w / 2) * width, (y - h / 2) * height)
        axes.add_patch(Rectangle(corner, w * width, h * height, fill=False, edgecolor=BOX, linewidth=0.9))
    axes.set_xticks([])
    axes.set_yticks([])


def lay_over(axes: Axes, mask: np.ndarray, image: np.ndarray, norm: Normalize, colours: str) -> AxesImage:
    """Lay a mask over the image, each cell as large as the pixels that it stands for."""
    height, width = image.shape[:2]
    return axes.imshow(
        mask, norm=norm, cmap=colours, alpha=1 - FAINT, extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="nearest",
    )  # fmt: skip
