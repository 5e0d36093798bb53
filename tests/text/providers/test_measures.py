"""Measures of pictures whose foreground is known."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hit_pictures import draw, scatter

from ultra_dsmoe.constants import LETTERBOX_GRAY
from ultra_dsmoe.text.providers.measures import LEAST_CONTRAST, foreground, measure


def steel(seed: int = 0, height: int = 80, width: int = 120) -> np.ndarray:
    """Return a grey ground with weak noise."""
    grey = np.random.default_rng(seed).normal(128, 2, (height, width)).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def test_a_dark_bar_on_steel() -> None:
    image = steel()
    image[10:14, 60:110] = 40  # 50 wide, 4 high, in the upper right
    found = measure(image)
    assert (found["width"], found["height"]) == (120, 80)
    assert found["aspect"] == pytest.approx(math.log2(1.5))
    assert found["share"] == pytest.approx(100 * 200 / 9600)
    assert (found["parts"], found["largest"], found["points"]) == (1, 100, 200)
    assert found["part_size"] == pytest.approx(100 * math.sqrt(200 / 9600))
    assert found["offset_x"] == pytest.approx(100 * (85 - 60) / 60)
    assert found["offset_y"] == pytest.approx(100 * (40 - 12) / 60)
    assert found["offset"] == pytest.approx(math.hypot(found["offset_x"], found["offset_y"]))
    assert found["stretch"] == pytest.approx(
        2 * math.log(50 / 4)
    )  # a bar's variance is side^2 / 12, pixels being squares
    assert found["spread"] == pytest.approx(100 * math.sqrt((50**2 + 4**2) / 24) / 60)
    assert found["tilt"] == pytest.approx(0, abs=1e-9)
    assert found["polarity"] == pytest.approx((40 - 128) / 2.55, abs=0.5)
    assert found["skew"] < -3


def test_the_axis_of_a_tilted_line_is_told() -> None:
    image = steel()
    cv2.line(image, (40, 60), (80, 20), (240, 240, 240), 2)  # rises to the right
    found = measure(image)
    assert found["tilt"] > 3
    assert abs(found["stretch"]) < 0.1
    assert found["grain"] == pytest.approx(45, abs=5)
    assert found["polarity"] > 30
    mirrored = measure(np.ascontiguousarray(image[:, ::-1]))
    assert mirrored["tilt"] == pytest.approx(-found["tilt"], rel=1e-3)
    assert mirrored["grain"] == pytest.approx(135, abs=5)


@pytest.mark.parametrize(("axis", "grain"), [(0, 0), (1, 90)])
def test_grain_runs_along_the_lines(axis: int, grain: float) -> None:
    stripes = np.tile(np.array([100, 100, 160, 160], np.uint8), 20)
    grey = np.tile(stripes[:, None] if axis == 0 else stripes[None], (1, 80) if axis == 0 else (80, 1))
    found = measure(np.repeat(grey[..., None], 3, axis=2))
    assert found["coherence"] == pytest.approx(1, abs=1e-6)
    assert min(abs(found["grain"] - grain), 180 - abs(found["grain"] - grain)) < 1e-6


def test_only_what_is_coloured_stands_out_where_marks_are_coloured() -> None:
    points = scatter(0, (3, -2), (1.5, 1.5), 300)
    image = draw(points)
    mask = foreground(image)
    assert not mask[(image == 0).all(axis=2)].any(), "the circle is no hit"
    assert (mask == (image == (255, 105, 180)).all(axis=2)).all()
    found = measure(image)
    assert found["offset_x"] == pytest.approx(100 * 3 / 12, abs=3)
    assert found["offset_y"] == pytest.approx(-100 * 2 / 12, abs=3)
    assert found["spread"] == pytest.approx(100 * 1.5 / 12, abs=2)


def test_what_is_far_and_what_is_central() -> None:
    image = np.full((101, 101, 3), 255, np.uint8)
    for x, y in ((50, 50), (52, 50), (50, 52), (52, 52), (54, 50), (50, 54), (54, 54), (56, 50), (56, 54), (98, 2)):
        image[y, x] = (255, 0, 200)
    found = measure(image)
    assert (found["parts"], found["points"]) == (10, 10)
    assert found["apart"] == pytest.approx(10)
    assert found["core"] == pytest.approx(90)
    assert found["largest"] == pytest.approx(10)


def test_nothing_stands_out_of_a_flat_picture() -> None:
    flat = np.full((40, 50, 3), 90, np.uint8)
    found = measure(flat)
    assert (found["share"], found["skew"], found["coherence"], found["contrast"]) == (0, 0, 0, 0)
    assert "parts" not in found
    assert measure(flat + np.uint8(0)) == found
    flat[3, 3] += LEAST_CONTRAST
    assert "parts" not in measure(flat), "noise of a camera"


def test_large_pictures_are_measured_as_small_ones() -> None:
    small = draw(scatter(1), 96)
    large = cv2.resize(small, (960, 960), interpolation=cv2.INTER_NEAREST)
    a, b = measure(small), measure(large)
    assert (b["width"], b["height"]) == (960, 960)
    for name in ("offset_x", "offset_y", "spread"):
        assert b[name] == pytest.approx(a[name], abs=2)


def test_the_bars_of_a_letterbox_are_no_part_of_a_picture() -> None:
    image = steel()
    image[10:14, 60:110] = 40
    boxed = np.full((120, 120, 3), LETTERBOX_GRAY, np.uint8)
    boxed[20:100] = image
    assert measure(boxed) == measure(image)
    flat = np.full((9, 9, 3), LETTERBOX_GRAY, np.uint8)
    assert measure(flat)["width"] == 9


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3)])
def test_smallest_pictures(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    assert all(math.isfinite(value) for value in measure(image).values())
