"""Options: their default, their check, and what an error calls them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from ultra_dsmoe.checks import flag
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.contract import AUX_COLUMN, HOST_COLUMNS, AuxTerm, Option


def test_an_option_is_what_the_section_says_or_its_default() -> None:
    option = Option(5)
    assert option.checked("x.key", "key", {"other": 1}) == 5
    assert option.checked("x.key", "key", {"key": None}) is None
    assert Option(True, flag).checked("x.key", "key", {"key": False}) is False


@pytest.mark.parametrize("value", [0, 1, "true", None, []])
def test_a_wrong_value_names_the_argument(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^x\.key: expected true or false, got "):
        Option(True, flag).checked("x.key", "key", {"key": value})


def test_a_default_is_not_checked() -> None:
    assert Option("auto", flag).checked("x.key", "key", {}) == "auto"


def test_a_term_is_added_to_the_common_column_unless_it_says_otherwise() -> None:
    assert (AuxTerm(1).column, AuxTerm(1).loss) == (AUX_COLUMN, None)
    assert AUX_COLUMN not in HOST_COLUMNS


@pytest.mark.parametrize(("shared", "name"), [(Option(5), "default"), (AuxTerm(1), "gain")])
def test_what_blocks_share_none_of_them_can_change(shared: object, name: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(shared, name, 7)
