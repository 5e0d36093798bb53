"""Graded words: quintiles, rounding, state."""

from __future__ import annotations

import json

import pytest

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text.providers.grades import Grades


def test_each_grade_is_said_of_a_fifth() -> None:
    rows = [{"a": float(i), "same": 3.0} for i in range(100)]
    grades = Grades.of(rows)
    counts = [0] * 5
    for row in rows:
        counts[grades.grade("a", row["a"])] += 1
    assert counts == [20] * 5
    assert "a" in grades
    assert "same" not in grades, "what does not vary says nothing"
    assert (grades.grade("a", -1e9), grades.grade("a", 1e9)) == (0, 4)


def test_sides_are_graded_by_distance() -> None:
    grades = Grades.of([{"x": float(i)} for i in range(-50, 51)], ["x"])
    assert grades.bounds["x"][0] == pytest.approx(10, abs=1)
    assert grades.bounds["x"][3] == pytest.approx(40, abs=1)


@pytest.mark.parametrize(
    ("high", "value", "text"),
    [(10, 2.3, "2.5"), (10, -0.1, "0"), (10, -2.26, "-2.5"), (200, 137, "140"), (400, 137, "150"), (0.5, 0.13, "0.15")],
)
def test_numbers_are_rounded_to_a_step_of_one_or_five(high: float, value: float, text: str) -> None:
    grades = Grades.of([{"a": high * i / 100} for i in range(101)])
    assert grades.rounded("a", value) == text


def test_a_middle_without_width_has_a_step_too() -> None:
    grades = Grades.of([{"a": 0.0}] * 99 + [{"a": 8.0}])
    assert grades.rounded("a", 8.0) == "8"
    assert grades.bounds["a"] == [0, 0, 0, 0]
    assert (grades.grade("a", 0), grades.grade("a", 0.1)) == (0, 4)


def test_state_is_json_and_order_does_not_matter() -> None:
    rows = [{"a": i**1.5, "b": 1 / (i + 1)} for i in range(30)]
    grades = Grades.of(rows)
    again = Grades.from_state(json.loads(json.dumps(grades.state())))
    assert (again.bounds, again.steps) == (grades.bounds, grades.steps)
    assert Grades.of(rows[::-1]).state() == grades.state()


@pytest.mark.parametrize(
    "state",
    [{}, {"bounds": 1, "steps": {}}, {"bounds": {"a": [1, 2]}, "steps": {"a": 1}}, {"bounds": {}, "steps": {"a": 1}}],
)
def test_another_state_is_one_line(state: dict[str, object]) -> None:
    with pytest.raises(TextError, match=r"^rules: expected .*bounds") as caught:
        Grades.from_state(state)
    assert "\n" not in str(caught.value)
