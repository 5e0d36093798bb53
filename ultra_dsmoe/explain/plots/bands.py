"""Draw the bands and gates of a frequency enhancement over their image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import Normalize
from torch import Tensor

from ultra_dsmoe.explain.plots.canvas import as_png, canvas
from ultra_dsmoe.explain.plots.distill_masks import PANEL, lay_over, show_image

if TYPE_CHECKING:
    from ultra_dsmoe.explain.bands import Bands

COLOURS = "inferno"
BAR = "#4c72b0"
FLAT = 0.02  # a map that varies by less of its mean is drawn as one colour, not as a pattern


def draw(image: np.ndarray, boxes_xywh_norm: Tensor, bands: Bands, title: str) -> bytes:
    """Return the picture as PNG: the image, each map over it, and the channel gate as bars.

    Args:
        image: Colours 0 to 255 in the host's order (RGB), (H, W, 3).
        boxes_xywh_norm: Centre and size as shares of the image, (N, 4).
        bands: What is seen.
        title: First line.
    """
    columns = 1 + len(bands.maps) + (bands.channels is not None)
    figure = canvas(PANEL * columns, PANEL * 1.15)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for panel in axes[: 1 + len(bands.maps)]:
        panel.axis("off")
        show_image(panel, image, boxes_xywh_norm)
    axes[0].set_title(f"{len(boxes_xywh_norm)} boxes", fontsize=9)
    for panel, (what, values) in zip(axes[1:], bands.maps.items(), strict=False):
        middle = (values.min() + values.max()) / 2
        half = max(float(np.ptp(values)), FLAT * float(values.mean()), 1e-9) / 2
        mask = lay_over(panel, values, image, Normalize(middle - half, middle + half), COLOURS)
        figure.colorbar(mask, ax=panel, fraction=0.046)
        panel.set_title(f"{what}, stride {bands.stride}", fontsize=9)
    if bands.channels is not None:
        heights = np.sort(bands.channels)[::-1]
        axes[-1].bar(np.arange(len(heights)), heights, width=1, color=BAR)
        axes[-1].set_ylim(0, 1)
        axes[-1].set_xlabel("channels, strongest first", fontsize=9)
        axes[-1].set_title(f"channel gate, {heights.min():.2f} to {heights.max():.2f}", fontsize=9)
    figure.suptitle(title, fontsize=11)
    return as_png(figure)
