"""What records say, under the names that they may have."""

from __future__ import annotations

import math

import pytest

from ultra_dsmoe.text.providers.quantities import quantities


def test_a_full_record() -> None:
    found = quantities({"mu_x": 3, "mu_y": -4, "sd_x": 2, "sd_y": 1, "cov_xy": 1, "hits": 40, "r0_2": 10, "r2_4": 30})
    assert (found["mean x"], found["mean y"], found["distance"], found["hits"]) == (3, -4, 5, 40)
    assert found["stretch"] == pytest.approx(2 * math.log(2))
    assert found["tilt"] == pytest.approx(2 * math.atanh(0.5))
    assert found["spread"] == pytest.approx(math.sqrt((4 + 1) / 2))
    assert found["half radius"] == pytest.approx(2 + 2 / 3)  # 20 hits: 10 in the first ring, 10 of 30 in the second
    assert found["reach"] == pytest.approx(2 + 2 * 26 / 30)
    assert "r0 2" not in found


@pytest.mark.parametrize(
    "record",
    [{"MEAN_X": 1, "mean_y": 2, "std_x": 2, "std_y": 3, "N": 5},
     {"mu_x": 1, "mu_y": 2, "var_x": 4, "var_y": 9, "count": 5}],
)  # fmt: skip
def test_other_names_say_the_same(record: dict[str, float]) -> None:
    expected = quantities({"mu_x": 1, "mu_y": 2, "sd_x": 2, "sd_y": 3, "hits": 5})
    assert quantities(record) == expected


def test_other_numbers_are_taken_as_they_are() -> None:
    assert quantities({"coating_temperature": 81.5}) == {"coating temperature": 81.5}
    assert quantities({"mu_x": 1}) == {"mean x": 1}


@pytest.mark.parametrize(
    "record",
    [{"sd_x": 0, "sd_y": 0, "cov_xy": 0}, {"sd_x": 1, "sd_y": 1, "cov_xy": 5}, {"var_x": -1, "var_y": 2}, {"r0_2": 0},
     {"r0_2": 3, "r2_4": 0}],
)  # fmt: skip
def test_odd_records_give_finite_numbers(record: dict[str, float]) -> None:
    assert all(math.isfinite(value) for value in quantities(record).values())
