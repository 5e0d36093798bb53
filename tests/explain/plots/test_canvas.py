"""The canvas: its size in pixels, a screen it does not need, the PNG that comes out."""

from __future__ import annotations

import cv2
import numpy as np
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ultra_dsmoe.explain.plots.canvas import DPI, as_png, canvas


def test_a_picture_has_the_size_that_was_asked_for() -> None:
    figure = canvas(4, 2)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1])
    picture = cv2.imdecode(np.frombuffer(as_png(figure), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (2 * DPI, 4 * DPI, 3)
    assert picture.min() < picture.max()


def test_the_layout_is_constrained_or_the_one_that_was_given() -> None:
    own = ConstrainedLayoutEngine(w_pad=0.5)
    assert canvas(1, 1, own).get_layout_engine() is own
    assert isinstance(canvas(1, 1).get_layout_engine(), ConstrainedLayoutEngine)
