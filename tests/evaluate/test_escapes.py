"""Escapes and overkill by hand, in the table and in the file."""

from __future__ import annotations

import numpy as np

from ultra_dsmoe.evaluate.escapes import Tally

NAMES = ["scratch", "dent", "stain"]


def shown(*boxes: tuple[int, bool]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([kind for kind, _ in boxes], int), np.array([right for _, right in boxes], bool)


def tally() -> Tally:
    made = Tally(3)
    # Two scratches and a dent; both scratches found, once twice, and a dent where there is none.
    made.add(np.array([0, 0, 1]), (shown((0, True), (0, True), (0, False), (1, False)), shown((0, True))))
    made.add(np.array([]), (shown((1, False)), shown()))  # a good part
    made.add(np.array([1]), (shown(), shown()))
    return made


def test_counts() -> None:
    made = tally()
    assert made.labelled.tolist() == [2, 2, 0]
    assert made.escapes.tolist() == [[0, 2, 0], [1, 2, 0]]
    assert made.overkill.tolist() == [[1, 2, 0], [0, 0, 0]]


def test_rows_begin_with_all_classes() -> None:
    rows = tally().rows(NAMES)
    assert rows[:2] == [("all", 4, 2, 3, 3, 0), ("scratch", 2, 0, 1, 1, 0)]
    assert rows[2:] == [("dent", 2, 2, 2, 2, 0), ("stain", 0, 0, 0, 0, 0)]


def test_table_says_what_there_is() -> None:
    table = tally().table(NAMES)
    assert [line.split()[0] for line in table.splitlines()] == ["Escapes", "Class", "all", "scratch", "dent"]
    assert table.splitlines()[2].split() == ["all", "4", "2", "3", "3", "0"]
    assert len({len(line) for line in table.splitlines()}) == 1
    assert len(tally().table(NAMES, verbose=False).splitlines()) == 3


def test_file() -> None:
    lines = tally().csv(NAMES).splitlines()
    assert lines[0] == "class,labelled,escapes_before,escapes_after,overkill_before,overkill_after"
    assert lines[1:] == ["all,4,2,3,3,0", "scratch,2,0,1,1,0", "dent,2,2,2,2,0", "stain,0,0,0,0,0"]
