"""Levels are matched by stride."""

from __future__ import annotations

import pytest

from ultra_dsmoe.distill import Level, match_levels
from ultra_dsmoe.errors import ConfigError

STUDENT, TEACHER = [4.0, 8.0, 16.0, 32.0], [4.0, 8.0, 16.0, 32.0, 64.0, 128.0]


def test_all_common_ones() -> None:
    assert match_levels(STUDENT, TEACHER) == [Level(4, 0, 0), Level(8, 1, 1), Level(16, 2, 2), Level(32, 3, 3)]


def test_other_numbers_of_levels() -> None:
    assert match_levels([8, 16, 32], TEACHER) == [Level(8, 0, 1), Level(16, 1, 2), Level(32, 2, 3)]
    assert match_levels(STUDENT, [8, 16, 32]) == [Level(8, 1, 0), Level(16, 2, 1), Level(32, 3, 2)]
    assert match_levels([8, 16, 32, 64], [4, 8, 16]) == [Level(8, 0, 1), Level(16, 1, 2)]


def test_wanted_ones_finest_first() -> None:
    assert match_levels(STUDENT, TEACHER, [16, 8, 8]) == [Level(8, 1, 1), Level(16, 2, 2)]


def test_errors_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^dsmoe_kd levels: expected strides .* \(8, 16\), got 4, 32$"):
        match_levels([4, 8, 16], [8, 16, 32], [4, 8, 32])
    with pytest.raises(ConfigError, match=r"^distill_model: expected a teacher with a level of stride 4, got 8, 16$"):
        match_levels([4], [8, 16])


def test_the_same_levels_where_a_method_needs_them() -> None:
    assert [level.stride for level in match_levels([8, 16, 32], [8.0, 16.0, 32.0], same=True)] == [8, 16, 32]
    assert [level.stride for level in match_levels([8, 16, 32], [8, 16, 32], [16], same=True)] == [16]
    with pytest.raises(ConfigError) as e:
        match_levels([8, 16, 32], [4, 8, 16, 32], [8], same=True)
    assert str(e.value) == "distill_model: expected a teacher of the student's strides (8, 16, 32), got 4, 8, 16, 32"
