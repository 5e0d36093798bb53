"""The picture of hits: dots where they lie, in their colour, at every size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ultra_dsmoe.data.hits.distribution import RADIUS
from ultra_dsmoe.data.hits.draw import GRAY, PINK, draw


def pink(image: np.ndarray) -> np.ndarray:
    return (image == PINK).all(-1)


def test_no_hits_leave_a_circle_on_white() -> None:
    image = draw(np.zeros((0, 2)))
    assert image.shape == (224, 224, 3)
    assert image.dtype == np.uint8
    dark = np.argwhere(image[..., 0] < 200)  # its edges are softer
    assert np.hypot(*(dark - 111.5).T) == pytest.approx(100, abs=1)
    assert len(dark) > 2 * np.pi * 100 * 0.9
    assert image.min() >= GRAY[0]


def test_a_hit_is_a_dot_where_it_lies_with_y_upwards() -> None:
    found = np.argwhere(pink(draw(np.array([[4.0, 10.0]]))))
    assert sorted(map(tuple, found)) == [(61, 132), (62, 131), (62, 132), (62, 133), (63, 132)]  # 5 pixels a unit


@pytest.mark.parametrize("size", [96, 97, 224, 448, 1000])
def test_dots_lie_in_place_at_every_size(size: int) -> None:
    points = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, -12.0], [-14.0, 14.0]])
    assert np.hypot(*points.T).max() < RADIUS
    image = draw(points, size)
    assert image.shape == (size, size, 3)
    count, _, _, centres = cv2.connectedComponentsWithStats(pink(image).astype(np.uint8))
    assert count == 1 + len(points)
    expected = (size / 2 + points * (1, -1) * size * 100 / 224 / RADIUS - 0.5).tolist()
    for centre in centres[1:]:
        assert min(np.abs(np.subtract(centre, e)).max() for e in expected) <= 0.51
