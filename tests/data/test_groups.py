"""Groups of images: which stand together, and which patterns are refused."""

from __future__ import annotations

import pytest

from ultra_dsmoe.data.groups import check_groups, group_numbers
from ultra_dsmoe.errors import DataError


def test_images_of_a_group_share_a_number() -> None:
    numbers = group_numbers(["a/10_1.png", "b/10_2.png", "7_1.png", "plain.png"], r"^(\d+)_").tolist()
    assert numbers[0] == numbers[1]
    assert sorted(set(numbers)) == [0, 1, 2]
    assert len(set(group_numbers(["a/1.png", "b/1.png"], None))) == 2


def test_an_image_is_not_taken_for_a_group_of_its_number() -> None:
    assert len(set(group_numbers(["x.png", "0_1.png"], r"^(\d+)_"))) == 2


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"^\d+_", "with one group in parentheses"),
        ("(a)(b)", "with one group in parentheses"),
        ("(", "a.yaml: groups: expected a regular expression"),
        (5, "a.yaml: groups: expected a regular expression"),
    ],
)
def test_wrong_patterns_are_refused(pattern: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_groups("a.yaml", pattern)
    assert check_groups("a.yaml", None) is None
    assert check_groups("a.yaml", "(a)") == "(a)"
