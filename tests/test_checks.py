"""Checks of single values."""

from __future__ import annotations

import numpy as np
import pytest

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError, DataError


def test_whole_numbers() -> None:
    assert [checks.is_whole(v, 1, 5) for v in (0, 1, 5, 6)] == [False, True, True, False]
    assert [checks.is_whole(v) for v in (True, 1.0, "1", None, np.int64(3))] == [False, False, False, False, True]
    assert checks.whole("k", 3) == 3
    with pytest.raises(ConfigError, match=r"^k: expected a positive integer, got 0$"):
        checks.whole("k", 0)
    with pytest.raises(DataError, match=r"^k: expected a whole number of at least 2, got 1$"):
        checks.whole("k", 1, low=2, kind=DataError)
    with pytest.raises(ConfigError, match=r"^k: expected this, got True$"):
        checks.whole("k", True, expected="this")
    assert checks.whole("k", np.int64(4), 2, 4) == 4
    with pytest.raises(ConfigError, match=r"^k: expected a whole number from 2 to 4, got 5$"):
        checks.whole("k", 5, 2, 4)


def test_numbers() -> None:
    assert [checks.is_number(v, 0, 1) for v in (0, 0.5, 1, -0.1, 1.1)] == [True, True, True, False, False]
    assert not any(map(checks.is_number, (True, "1", None, float("nan"), float("inf"))))
    assert [checks.number("k", v, 0, 0.5) for v in (0, 0.5)] == [0, 0.5]
    for value in (-0.1, 0.6, True, "0.1", float("nan")):
        with pytest.raises(ConfigError, match=r"^k: expected a number from 0 to 0\.5, got "):
            checks.number("k", value, 0, 0.5)
    with pytest.raises(ConfigError, match=r"^k: expected a number >= 0, got -1$"):
        checks.number("k", -1, 0)
    with pytest.raises(ConfigError, match=r"^k: expected a finite number, got inf$"):
        checks.number("k", float("inf"))
    assert checks.positive("k", 1e-9) == 1e-9
    for value in (0, -1, True, "1", float("inf")):
        with pytest.raises(ConfigError, match=r"^k: expected a number above 0, in GiB, got "):
            checks.positive("k", value, "in GiB")


def test_names_out_of_a_set() -> None:
    checks.known("section", ["a"], ("a", "bee"))
    with pytest.raises(ConfigError, match=r"^section: expected keys out of a, bee \(did you mean 'bee'\?\), got be$"):
        checks.known("section", ["a", "be"], ("a", "bee"))
    with pytest.raises(ConfigError, match=r"^section: expected terms out of a, bee, got 3$"):
        checks.known("section", {3: 1}, ("a", "bee"), "terms")


def test_switches_and_names() -> None:
    assert checks.flag("a", False) is False
    with pytest.raises(ConfigError, match=r"^a: expected true or false, got 0$"):
        checks.flag("a", 0)
    assert checks.one_of("a", "dense", ("gather", "dense")) == "dense"
    with pytest.raises(ConfigError, match=r"^a: expected one of gather, dense \(did you mean 'dense'\?\), got dens$"):
        checks.one_of("a", "dens", ("gather", "dense"))
    with pytest.raises(ConfigError):
        checks.one_of("a", [1], ("gather", "dense"))
    with pytest.raises(ConfigError, match="got 1"):
        checks.one_of("a", 1, (True, False))
    with pytest.raises(DataError, match=r"^a: expected one of gather, got x$"):
        checks.one_of("a", "x", ("gather",), DataError)


def test_sizes() -> None:
    checks.sizes("Block", c=1, ch=[1, 2], k=(3,))
    with pytest.raises(ConfigError, match=r"^Block ch\[1\]: expected a positive integer, got x$"):
        checks.sizes("Block", c=1, ch=[1, "x"])
    with pytest.raises(ConfigError, match=r"^Block ch: expected at least one entry, got \[\]$"):
        checks.sizes("Block", ch=[])
