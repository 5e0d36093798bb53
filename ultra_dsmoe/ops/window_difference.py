"""Difference of two images that may be a few pixels apart: how far a value lies outside of what the other has near."""

from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor


def window_difference(image: Tensor, reference: Tensor, window: int) -> Tensor:
    """Return the difference of two images in which a shift of less than half a window does not show.

    A value differs by its distance from the range (smallest to largest) that the other image has in a window around
    it. That is never more than the best match ``min |image - shifted reference|`` over the window, and 0 for shifts of
    parts of a pixel, too, which the best match is not; four pools compute it, whatever the window. It is asked both
    ways and the larger answer counts: of something thin that is missing, the image alone would say nothing, as the
    reference has its surroundings beside it.

    Source: our choice; a range over a window in place of a position is what dilation and erosion give.

    Args:
        image: (B, C, H, W).
        reference: The same shape.
        window: Side of the window in pixels, odd; 1 gives ``|image - reference|``.

    Returns:
        (B, C, H, W), at least 0.
    """
    negative, other = -image, -reference  # what lies below a range lies, negated, above one
    gaps = (
        image - _largest(reference, window),
        negative - _largest(other, window),
        reference - _largest(image, window),
        other - _largest(negative, window),
    )
    return reduce(torch.maximum, gaps).relu()


def _largest(x: Tensor, window: int) -> Tensor:
    """Return the largest value in a window around every position; what lies outside of the image does not count."""
    return F.max_pool2d(x, window, stride=1, padding=window // 2)
