"""What stands on the Poincaré disk: rings at their distances, marks by kind, colours by group, words by case."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from ultra_dsmoe.explain.plots.poincare_disk import ALONE, COLOURS, RINGS, figure_of, found, heights, sides
from ultra_dsmoe.explain.poincare_disk import Disk, distance, geodesic

NAMES = ["pit", "scratch", "spur", "marks"]  # three classes and the group of the first two
PARENTS = [3, 3, -1, -1]


def disk(norms: tuple[Any, ...] = (0.9, 1.2, 1.0, 0.4), angles: tuple[Any, ...] = (0.3, 1.4, 3.5, 0.8)) -> Disk:
    """Return a flat disk, its own distances those of the ball."""
    points = np.tanh(norms) * np.exp(1j * np.array(angles))
    ball = distance(points[:, None], points[None])
    return Disk(NAMES, np.array(PARENTS), 3, 2, np.array(norms), ball, np.array(angles))


@pytest.fixture(scope="module")
def figure() -> Figure:
    return figure_of(disk(), "A title")


def marks(figure: Figure) -> dict[str, list[Any]]:
    """Return the lines that are single marks, by the form of the mark."""
    found: dict[str, list[Any]] = {}
    for line in figure.axes[0].lines:
        if line.get_marker() not in ("None", "", None):
            found.setdefault(line.get_marker(), []).append(line)
    return found


def at(line: Any) -> complex:
    (x,), (y,) = line.get_data() if np.ndim(line.get_xdata()) else ([line.get_xdata()], [line.get_ydata()])
    return complex(x, y)


def test_rings_lie_at_whole_distances_from_the_centre(figure: Figure) -> None:
    circles = [p for p in figure.axes[0].patches if isinstance(p, Circle)]
    assert all(c.center == (0, 0) for c in circles)
    radii = sorted(c.radius for c in circles)
    assert radii[-1] == 1  # the boundary
    np.testing.assert_allclose(distance(np.zeros(len(RINGS)), np.array(radii[:-1])), [1, 2, 3, 4])
    labels = {t.get_text(): t.get_position() for t in figure.axes[0].texts if t.get_text() in "1234"}
    for ring in RINGS:  # each number on its own ring, at the bottom
        np.testing.assert_allclose(labels[str(ring)], (0, -radii[ring - 1]))


def test_classes_are_round_and_groups_square(figure: Figure) -> None:
    points = disk().points
    by_form = marks(figure)
    assert sorted(by_form) == ["+", "o", "s"]
    np.testing.assert_allclose([at(m) for m in by_form["o"]], points[:3])
    np.testing.assert_allclose([at(m) for m in by_form["s"]], points[3:])
    assert at(by_form["+"][0]) == 0  # the centre
    styles = {t.get_text(): t.get_style() for t in figure.axes[0].texts if t.get_text() in NAMES}
    assert styles == {"pit": "normal", "scratch": "normal", "spur": "normal", "marks": "italic"}


def test_a_group_and_its_classes_share_a_colour(figure: Figure) -> None:
    colours = {t.get_text(): to_hex(t.get_color()) for t in figure.axes[0].texts if t.get_text() in NAMES}
    assert colours["pit"] == colours["scratch"] == colours["marks"] == COLOURS[0]
    assert colours["spur"] == to_hex(ALONE)
    assert [to_hex(m.get_color()) for m in marks(figure)["o"]] == [COLOURS[0], COLOURS[0], to_hex(ALONE)]


def test_every_group_has_a_colour_of_its_own_until_they_run_out() -> None:
    groups = len(COLOURS) + 1
    names = ["pit", "spur", *(f"group {i}" for i in range(groups))]
    parents = np.array([2, 3, *[-1] * groups])
    norms = np.linspace(0.4, 1.2, len(names))
    between = np.ones((len(names), len(names)))
    many = Disk(names, parents, 2, 2, norms, between, np.linspace(0, 6, len(names)))
    texts = {t.get_text(): to_hex(t.get_color()) for t in figure_of(many, "t").axes[0].texts}
    assert [texts[f"group {i}"] for i in range(groups)] == [*COLOURS, COLOURS[0]]
    assert (texts["pit"], texts["spur"]) == COLOURS[:2]


def test_arcs_go_from_parent_to_child(figure: Figure) -> None:
    points = disk().points
    arcs = [line for line in figure.axes[0].lines if len(np.atleast_1d(line.get_xdata())) > 2]
    assert len(arcs) == 2
    for arc, child in zip(arcs, (0, 1), strict=True):
        way = np.array(arc.get_xdata()) + 1j * np.array(arc.get_ydata())
        np.testing.assert_allclose(way, geodesic(points[3], points[child]))
        assert to_hex(arc.get_color()) == COLOURS[0]


def test_names_stand_on_their_side_with_a_line_to_their_node(figure: Figure) -> None:
    axes, points = figure.axes[0], dict(zip(NAMES, disk().points, strict=True))
    lines = [line for line in axes.lines if len(np.atleast_1d(line.get_xdata())) == 2]
    ends = [complex(line.get_xdata()[1], line.get_ydata()[1]) for line in lines]
    for text in (t for t in axes.texts if t.get_text() in NAMES):
        x, y = text.get_position()
        side = 1 if text.get_ha() == "left" else -1
        assert side * x > 1
        nearest = int(np.argmin(np.abs(np.array(ends) - points[text.get_text()])))
        assert ends[nearest] == pytest.approx(points[text.get_text()])
        assert (lines[nearest].get_ydata()[0], np.sign(lines[nearest].get_xdata()[0])) == (pytest.approx(y), side)
    left, right = sides(disk().points)
    assert {NAMES[i] for i in left} == {t.get_text() for t in axes.texts if t.get_ha() == "right"}
    assert len(left) == len(right) == 2


def test_heights_press_down_from_the_top_only_where_they_must() -> None:
    np.testing.assert_allclose(heights(np.array([0.0, 0.05, 0.5]), 0.2), [0, 0.2, 0.5])
    np.testing.assert_allclose(heights(np.array([0.9, 0.95]), 0.2), [0.8, 1.0])
    np.testing.assert_allclose(heights(np.array([0.4, 0.6]), 0.2, limit=0.5), [0.3, 0.5])
    assert len(heights(np.array([]), 0.2)) == 0


def test_words_of_what_the_ball_holds() -> None:
    text = found(disk())
    assert text.startswith("In the ball 2 of 2 children are farther out than their parent; ")
    near, far, chance = disk().kin()
    assert f"{near:.2f} apart on average, others {far:.2f}" in text
    assert f"{100 * chance:.0f} % of 1000 random" in text
    upside_down = disk(norms=(0.4, 1.2, 1.0, 0.9))
    assert found(upside_down).startswith("In the ball 1 of 2 children")


def test_the_picture_says_what_it_shows(figure: Figure) -> None:
    words = " ".join(t.get_text() for t in figure.texts).replace("\n", " ")
    assert words.startswith("A title Distances to the centre are exact")
    assert "Square, in italics: groups of the taxonomy" in words
    classes = Disk(NAMES[:3], np.full(3, -1), 3, 2, np.ones(3), np.ones((3, 3)), np.arange(3.0))
    alone = " ".join(t.get_text() for t in figure_of(classes, "t").texts)
    assert "No taxonomy: classes alone." in alone
    assert "Square" not in alone
