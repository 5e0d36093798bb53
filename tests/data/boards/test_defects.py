"""The six defects on boards small enough to know what must and must not be found."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from ultra_dsmoe.data.boards.defects import APART, CLASSES, TRIES, add_defects
from ultra_dsmoe.data.boards.layout import Layout

SIZE = 240
SEEDS = range(6)
KIND = {name: i for i, name in enumerate(CLASSES)}


def layout(copper: np.ndarray, drills: tuple[Any, ...] = ()) -> Layout:
    holes = np.zeros_like(copper)
    for x, y, diameter in drills:
        cv2.circle(holes, (x, y), diameter // 2, 1, -1)
    empty = np.zeros_like(copper)
    return Layout(copper & (1 - holes), holes, empty, empty, empty, np.array(drills, int).reshape(-1, 3), 1.0)


def bars(gap: int, width: int = 14) -> np.ndarray:
    """Return two upright bars side by side."""
    copper = np.zeros((SIZE, SIZE), np.uint8)
    left = (SIZE - gap) // 2
    copper[:, left - width : left] = copper[:, left + gap : left + gap + width] = 1
    return copper


def found(board: Layout, name: str) -> list[tuple[np.ndarray, tuple[int, int, int, int]]]:
    """Return the copper and box of each seed that found a place."""
    tries = [add_defects(np.random.default_rng(seed), board, [KIND[name]]) for seed in SEEDS]
    return [(copper, defects[0].box_xyxy_px) for copper, defects in tries if defects]


def test_short_joins_two_conductors_across_their_gap() -> None:
    board = layout(bars(gap=20))
    results = found(board, "short")
    assert results
    for copper, (x0, _, x1, _) in results:
        assert (x0, x1) == (110, 130)  # from bar to bar
        assert cv2.connectedComponents(copper)[0] - 1 == 1


def test_short_of_a_conductor_with_itself_is_none() -> None:
    copper = bars(gap=20)
    copper[60:80, 100:140] = 1  # now one conductor, seen whole in any window
    copper[:40] = copper[100:] = 0
    assert not found(layout(copper), "short")


def test_short_does_not_reach_far() -> None:
    assert not found(layout(bars(gap=70)), "short")


def test_open_circuit_cuts_the_full_width() -> None:
    results = found(layout(bars(gap=80)), "open_circuit")
    assert results
    for copper, (x0, y0, x1, y1) in results:
        assert x1 - x0 == 14
        assert cv2.connectedComponents(copper)[0] - 1 == 3
        assert not copper[(y0 + y1) // 2, x0:x1].any()


def test_open_circuit_needs_a_second_end() -> None:
    copper = np.zeros((SIZE, SIZE), np.uint8)
    cv2.circle(copper, (120, 120), 12, 1, -1)  # a pad on its own has no ends
    assert not found(layout(copper), "open_circuit")


def test_open_circuit_spares_pads() -> None:
    board = layout(bars(gap=80))
    board.pads[: SIZE // 2] = 1  # the upper half of both bars
    results = found(board, "open_circuit")
    assert results
    assert all(y0 > SIZE // 2 for _, (_, y0, _, _) in results)


def test_mouse_bite_leaves_a_neck() -> None:
    results = found(layout(bars(gap=80, width=24)), "mouse_bite")
    assert results
    for copper, (x0, y0, x1, y1) in results:
        assert cv2.connectedComponents(copper)[0] - 1 == 2
        assert x1 - x0 < 24
        assert copper[y0:y1].any(1).all()


def test_thin_trace_cannot_be_bitten_without_cutting_it() -> None:
    assert not found(layout(bars(gap=80, width=8)), "mouse_bite")


def test_spur_touches_its_trace_and_keeps_clear_of_the_next() -> None:
    results = found(layout(bars(gap=60)), "spur")
    assert results
    for copper, (x0, _, x1, _) in results:
        assert cv2.connectedComponents(copper)[0] - 1 == 2
        assert x1 in (76, 150) or x0 in (90, 164)  # one side lies on an edge of a bar
    assert not found(layout(bars(gap=14)), "spur") or all(
        x1 <= 99 or x0 >= 141 for _, (x0, _, x1, _) in found(layout(bars(gap=14)), "spur")
    )  # in a narrow gap there is no room, outside of the bars there is


def test_spurious_copper_is_alone() -> None:
    results = found(layout(bars(gap=80)), "spurious_copper")
    assert results
    for copper, _ in results:
        assert cv2.connectedComponents(copper)[0] - 1 == 3


def test_missing_hole_fills_a_drill_and_small_ones_do_not_count() -> None:
    copper = np.zeros((SIZE, SIZE), np.uint8)
    cv2.circle(copper, (120, 120), 20, 1, -1)
    ((filled, box), *_) = found(layout(copper, ((120, 120, 21),)), "missing_hole")
    np.testing.assert_array_equal(filled, copper)
    assert box == (110, 110, 131, 131)
    assert not found(layout(copper, ((120, 120, 9),)), "missing_hole")


@pytest.mark.parametrize("name", [n for n in CLASSES if n != "spurious_copper"])
def test_bare_board_has_only_spurious_copper(name: str) -> None:
    bare = layout(np.zeros((SIZE, SIZE), np.uint8))
    assert not found(bare, name)
    assert found(bare, "spurious_copper")


def test_full_copper_has_no_room_for_more() -> None:
    full = layout(np.ones((SIZE, SIZE), np.uint8))
    assert not any(found(full, name) for name in ("short", "spur", "spurious_copper", "missing_hole"))


def test_defects_keep_apart_and_a_crowd_is_cut_short() -> None:
    bare = layout(np.zeros((SIZE, SIZE), np.uint8))
    copper, defects = add_defects(np.random.default_rng(0), bare, [KIND["spurious_copper"]] * TRIES)
    assert 4 < len(defects) < TRIES
    boxes = [d.box_xyxy_px for d in defects]
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]) >= APART
    assert cv2.connectedComponents(copper)[0] - 1 == len(defects)
    assert not bare.copper.any()  # the sound board is left as it was
