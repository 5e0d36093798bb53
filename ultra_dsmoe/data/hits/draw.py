"""The picture of some hits: pink dots on white within a circle, as an inspection machine plots them.

Source: [PFA] Eq. 10 and its figure of the five classes; sizes are not named, all of them are our choice.
"""

from __future__ import annotations

import cv2
import numpy as np

from ultra_dsmoe.data.hits.distribution import RADIUS

SIZE = 224
CIRCLE = 100 / 224  # radius of the circle, as a share of the picture's side
DOT = 1 / 224  # the same of a dot; under half a pixel it is one pixel
PINK, WHITE, GRAY = (180, 105, 255), 255, (160, 160, 160)  # BGR
_FRACTION = 4  # bits behind the point in what OpenCV takes for coordinates


def draw(points: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Draw hits.

    Args:
        points: (N, 2) in units of the table, inside the circle; x to the right, y upwards.
        size: Side of the picture in pixels.

    Returns:
        uint8, BGR, (size, size, 3).
    """
    image = np.full((size, size, 3), WHITE, np.uint8)
    middle = size / 2
    centre = round((middle - 0.5) * 2**_FRACTION)  # pixels are counted from the middle of the first one
    cv2.circle(image, (centre, centre), round(CIRCLE * size * 2**_FRACTION), GRAY, 1, cv2.LINE_AA, _FRACTION)
    for column, row in np.floor(middle + points * (1, -1) * (CIRCLE * size / RADIUS)).astype(int).tolist():
        cv2.circle(image, (column, row), round(DOT * size), PINK, cv2.FILLED)
    return image
