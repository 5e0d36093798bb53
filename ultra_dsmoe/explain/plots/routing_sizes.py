"""Draw defect sizes against experts, and say what they have to do with each other."""

from __future__ import annotations

import numpy as np

from ultra_dsmoe.explain.plots.routing_map import Chart, draw_chart, experts_explained
from ultra_dsmoe.explain.routing_sizes import SizeMap

ENOUGH = 0.5  # of the defects need an image to exchange routes with, or class cannot be told from size (our choice)


def draw(sizes: SizeMap, title: str) -> bytes:
    """Return the picture as PNG.

    Args:
        sizes: What to draw.
        title: First line, such as the model's name.
    """
    counts = sizes.counts.sum(0).astype(int)
    rows = [
        f"{name}\n({defects} defects, {images} images)"
        for name, defects, images in zip(sizes.rows, counts, sizes.images, strict=True)
    ]
    footer = (
        "The gate decides once per image, so a row is not where defects are sent but the images that show them, each "
        "weighted by its defects of that size. Size: root of the box's area in pixels of the image as the net sees it, "
        "parted at the quartiles of this split."
    )
    chart = Chart(
        share=sizes.share,
        usage=sizes.usage,
        rows=rows,
        framed=np.full(len(sizes.usage), -1),
        scale="defects in images sent\nto the expert (%)",
        heading=[title, sentence(sizes), beyond(sizes)],
        footer=[footer, experts_explained(sizes.weights > 0)],
    )
    return draw_chart(chart)


def sentence(sizes: SizeMap) -> str:
    """Say in one sentence whether routing depends on the size."""
    if len(sizes.ranges) == 1:
        return "Most defects have one size: there is nothing to compare"
    start = "Experts" if sizes.depends_on_size else "No sign that experts"
    return (
        f"{start} depend on the defect size: one expert tells {sizes.bits:.3f} of the {sizes.size_bits:.2f} bit that "
        f"name its quarter; by chance it would be {_chance(sizes.shuffled)}"
    )


def beyond(sizes: SizeMap) -> str:
    """Say whether that is more than the classes of the images explain; empty where there is nothing to compare."""
    if len(sizes.ranges) == 1:
        return ""
    if sizes.alike < ENOUGH:
        return (
            f"Whether size adds to what the class says cannot be told: only {100 * sizes.alike:.0f} % of the defects "
            "are in images that share their classes with another image"
        )
    start = "Size, or what goes with it, adds" if sizes.beyond_class else "No sign that size adds"
    return f"{start} to what the class says: among images of the same classes chance is {_chance(sizes.shuffled_alike)}"


def _chance(shuffled: np.ndarray) -> str:
    high = np.percentile(shuffled, 95)
    return f"{shuffled.mean():.3f} (95 % of {len(shuffled)} shuffles below {high:.3f})"
