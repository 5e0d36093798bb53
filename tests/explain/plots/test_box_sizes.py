"""The picture of box sizes: every box in its cluster's colour, the borders of the levels, the share of tiny boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ultra_dsmoe.data.box_sizes import Boxes, Clusters
from ultra_dsmoe.explain.plots.box_sizes import COLOURS, _cloud, _histogram, _pixels

SIZES = np.array([[8.0, 8.0], [10.0, 8.0], [100.0, 25.0], [300.0, 300.0]])


def boxes(sizes: np.ndarray = SIZES) -> Boxes:
    return Boxes(sizes, np.array([640]), {"train": len(sizes)}, 640)


def clusters() -> Clusters:
    return Clusters(np.array([[9.0, 8.0], [200.0, 160.0]]), np.array([0.5, 0.5]), np.array([0, 0, 1, 1]))


@pytest.fixture
def axes() -> Any:
    return Figure().add_subplot()


def test_every_box_is_drawn_once_in_the_colour_of_its_cluster(axes: Any) -> None:
    _cloud(axes, boxes(), clusters())
    (cloud,) = axes.collections
    shown = {tuple(p): to_hex(c) for p, c in zip(cloud.get_offsets().tolist(), cloud.get_facecolors(), strict=True)}
    expected = [COLOURS[0], COLOURS[0], COLOURS[1], COLOURS[1]]
    assert shown == dict(zip(map(tuple, SIZES.tolist()), expected, strict=True))
    numbers = {t.get_text(): t.get_position() for t in axes.texts if t.get_text() in "12"}
    assert numbers == {"1": (9.0, 8.0), "2": (200.0, 160.0)}
    assert axes.get_xlim() == axes.get_ylim() == pytest.approx((8 / 1.25, 300 * 1.25))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("width (px at 640)", "height (px at 640)")


def test_borders_of_the_levels_are_lines_of_equal_area(axes: Any) -> None:
    _cloud(axes, boxes(), clusters())
    lines = [line for line in axes.lines if line.get_linestyle() == "--"]
    roots = [np.sqrt(np.array(line.get_xdata()) * np.array(line.get_ydata())) for line in lines]
    np.testing.assert_allclose(roots, [[32, 32], [64, 64], [128, 128]])
    labels = {
        t.get_text().split()[0]: np.sqrt(np.prod(t.get_position())) for t in axes.texts if "\u2197" in t.get_text()
    }
    assert labels == pytest.approx({"P3": 32, "P4": 64, "P5": 128})


def test_a_level_beyond_the_picture_has_no_label(axes: Any) -> None:
    small = boxes(SIZES[:2])
    _cloud(axes, small, Clusters(np.array([[9.0, 8.0]]), np.ones(1), np.zeros(2, int)))
    assert not [t for t in axes.texts if "\u2197" in t.get_text()]


def test_the_histogram_counts_all_boxes_and_parts_the_tiny_ones(axes: Any) -> None:
    _histogram(axes, boxes())
    tiny, others = axes.containers
    assert [sum(bar.get_height() for bar in bars) for bars in (tiny, others)] == [2, 2]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["below 16 px (50.0 %)", "others (50.0 %)"]
    assert axes.get_title(loc="left") == "4 boxes"
    assert [line.get_xdata()[0] for line in axes.lines] == [32, 64, 128]
    names = {t.get_text(): t.get_position()[0] for t in axes.texts}
    assert list(names) == ["P2", "P3", "P4", "P5"]
    assert 32 < names["P3"] < 64 < names["P4"] < 128 < names["P5"]
    low, high = axes.get_xlim()
    assert low < 8
    assert high > 300


def test_ticks_are_powers_of_two_inside(axes: Any) -> None:
    axes.set(xscale="log", xlim=(6, 130))
    _pixels(axes.xaxis, 6, 130)
    assert axes.xaxis.get_majorticklocs().tolist() == [8, 16, 32, 64, 128]
    assert axes.xaxis.get_minorticklocs().tolist() == []
