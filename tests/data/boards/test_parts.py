"""Footprints: pads that lie apart and inside their part, drills inside their copper, parts that turn and repeat."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from ultra_dsmoe.data.boards.parts import (
    CATALOGUE,
    RING,
    RING_HOLE,
    Pad,
    Part,
    draw_part,
    dual_in_line,
    header,
    quad_flat,
    small_outline,
)

MAKERS = [maker for maker, _ in CATALOGUE]


def drawn(maker: Any, count: int = 20) -> list[Part]:
    rng = np.random.default_rng(0)
    return [maker(rng) for _ in range(count)]


def apart(a: Pad, b: Pad) -> bool:
    across = abs(a.x - b.x) - (a.width + b.width) / 2
    return max(across, abs(a.y - b.y) - (a.height + b.height) / 2) > 0.1


@pytest.mark.parametrize("maker", MAKERS)
def test_pads_lie_apart_and_drills_inside_them(maker: Any) -> None:
    for part in drawn(maker):
        assert all(apart(a, b) for a, b in combinations(part.pads, 2))
        assert all(0 <= p.hole < min(p.width, p.height) for p in part.pads)
        assert all(p.hole > 0 for p in part.pads if p.round)
        left, top, right, bottom = part.extent()
        for pad in part.pads:
            assert left <= pad.x - pad.width / 2 < pad.x + pad.width / 2 <= right
            assert top <= pad.y - pad.height / 2 < pad.y + pad.height / 2 <= bottom


@pytest.mark.parametrize("maker", MAKERS)
def test_turning_exchanges_the_axes_and_twice_changes_nothing(maker: Any) -> None:
    for part in drawn(maker, 5):
        turned = part.turned()
        assert turned.turned() == part
        assert [(p.x, p.y, p.width, p.height) for p in turned.pads] == [
            (p.y, p.x, p.height, p.width) for p in part.pads
        ]
        left, top, right, bottom = part.extent()
        assert turned.extent() == (top, left, bottom, right)
        assert [(p.hole, p.round) for p in turned.pads] == [(p.hole, p.round) for p in part.pads]


def test_extent_by_hand() -> None:
    part = Part((Pad(0, 0, 2, 4), Pad(5, 1, 1, 1)), (-0.5, -3, 5, 0.5), "U")
    assert part.extent() == (-1, -3, 5.5, 2)


def test_two_rows_of_drilled_pins_two_pitches_apart() -> None:
    for part in drawn(dual_in_line):
        pins, rows = len(part.pads) // 2, part.pads[-1].y
        assert 3 <= pins <= 7
        assert 4 <= rows <= 6
        assert [(p.x, p.y) for p in part.pads] == [(2 * i, y) for y in (0, rows) for i in range(pins)]
        assert {(p.width, p.height, p.hole) for p in part.pads} == {(RING, RING, RING_HOLE)}
        assert [p.round for p in part.pads] == [False] + [True] * (2 * pins - 1)  # pin one is square


def test_headers_have_one_or_two_rows() -> None:
    parts = drawn(header, 40)
    assert {len({p.y for p in part.pads}) for part in parts} == {1, 2}
    assert {len({p.x for p in part.pads}) for part in parts} == set(range(2, 8))
    assert all([p.round for p in part.pads].count(False) == 1 and not part.pads[0].round for part in parts)


def test_surface_parts_have_no_drill_and_one_pitch() -> None:
    for part in (*drawn(small_outline), *drawn(quad_flat)):
        assert not any(p.hole for p in part.pads)
    for part in drawn(small_outline):
        xs = sorted({p.x for p in part.pads})
        assert np.diff(xs).tolist() == [1] * (len(xs) - 1)
        assert all(p.height > p.width for p in part.pads)


def test_a_quad_package_has_as_many_pads_on_every_side() -> None:
    for part in drawn(quad_flat):
        far = max(p.x for p in part.pads)
        sides = [sum(getattr(p, axis) == at for p in part.pads) for axis in "xy" for at in (0, far)]
        assert len(set(sides)) == 1
        assert sum(sides) == len(part.pads)
        assert part.turned().extent() == part.extent()


def test_the_catalogue_is_drawn_by_its_weights() -> None:
    assert sum(weight for _, weight in CATALOGUE) == pytest.approx(1)
    rng = np.random.default_rng(0)
    letters = Counter(draw_part(rng).letter for _ in range(2000))
    assert set(letters) == set("RCUJQH")
    assert letters["J"] / 2000 == pytest.approx(0.14, abs=0.03)
    assert (letters["R"] + letters["C"]) / 2000 == pytest.approx(0.44, abs=0.04)  # two-terminal and radial
    assert letters["H"] / 2000 == pytest.approx(0.03, abs=0.015)


def test_half_of_the_parts_are_turned_and_a_seed_repeats() -> None:
    parts = [draw_part(np.random.default_rng(i)) for i in range(400)]
    assert parts == [draw_part(np.random.default_rng(i)) for i in range(400)]
    outlines = [p.extent() for p in parts if p.letter == "Q"]
    upright = sum(right - left > bottom - top for left, top, right, bottom in outlines)
    assert 0 < upright < len(outlines)
