"""Pairs: the order of their channels, both ways."""

from __future__ import annotations

import numpy as np
import pytest

from ultra_dsmoe.data.reference.pairing import blank_like, halves, stacked
from ultra_dsmoe.errors import ShapeError


def test_colours_stand_as_rgb_image_first() -> None:
    image = np.full((2, 2, 3), (1, 2, 3), np.uint8)  # BGR
    reference = np.full((2, 2, 3), (4, 5, 6), np.uint8)
    assert stacked(image, reference)[0, 0].tolist() == [3, 2, 1, 6, 5, 4]


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_halves_undo_stacking(channels: int) -> None:
    image, reference = np.random.default_rng(0).integers(0, 256, (2, 5, 7, channels), dtype=np.uint8)
    for back, one in zip(halves(stacked(image, reference)), (image, reference), strict=True):
        assert np.array_equal(back, one)


def test_views_of_pictures_are_stacked_as_copies_are() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 10, 6), dtype=np.uint8)
    image, reference = picture[::2, 9:1:-1, :3], picture[1::2, 1:9, 3:]
    assert np.array_equal(stacked(image, reference), stacked(image.copy(), reference.copy()))
    assert np.array_equal(stacked(image, reference), np.dstack([image[..., ::-1], reference[..., ::-1]]))


def test_a_blank_reference_is_black() -> None:
    assert not blank_like(np.ones((2, 3, 1), np.uint8)).any()


def test_pictures_that_are_no_pair_are_refused() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    with pytest.raises(ShapeError, match=r"reference: expected the image's shape \(2, 3, 3\), got \(2, 3, 1\)"):
        stacked(image, image[..., :1])
    with pytest.raises(ShapeError, match=r"pair: expected \(H, W, 2C\)"):
        halves(image)
