"""Tests in a fork: the module is broken there and nowhere else, and a test that hangs is ended."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.mutants.forks import tried

SOURCE = "def add(a, b):\n    return a + b\n"


@pytest.fixture
def adder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module and its test, which starts the module from a folder of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mutants_adder.py").write_text(SOURCE)
    (tmp_path / "test_adder.py").write_text(
        "import mutants_adder, tempfile\n\n"
        "def test_sum(tmp_path):\n"
        "    assert str(tmp_path).startswith(tempfile.gettempdir())\n"
        "    assert mutants_adder.add(1, 2) == 3\n"
    )
    return tmp_path


def with_source(folder: Path, source: str, limit_s: float = 60.0) -> Any:
    return tried(folder / "test_adder.py", limit_s, ("mutants_adder", folder / "mutants_adder.py", source))


def test_as_it_is(adder: Path) -> None:
    assert with_source(adder, SOURCE).passed


def test_a_module_that_is_imported_already_cannot_be_broken(adder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mutants_adder", ModuleType("mutants_adder"))
    outcome = with_source(adder, SOURCE)
    assert not outcome.passed
    assert outcome.log.endswith("AssertionError: mutants_adder is imported already\n")


def test_a_break_is_found_and_leaves_nothing(adder: Path) -> None:
    outcome = with_source(adder, SOURCE.replace("+", "-"))
    assert (outcome.passed, outcome.code) == (False, 1)
    assert "assert -1 == 3" in outcome.log
    assert (adder / "mutants_adder.py").read_text() == SOURCE
    assert "mutants_adder" not in sys.modules
    assert with_source(adder, SOURCE).passed, "no byte code of the broken module is taken up"


@pytest.mark.parametrize("source", ["def add(:", "raise RuntimeError", "import os\nos._exit(7)", "1 / 0"])
def test_a_module_that_does_not_load_is_found(adder: Path, source: str) -> None:
    assert not with_source(adder, source).passed


def test_a_test_that_hangs_is_ended(adder: Path) -> None:
    start = time.monotonic()
    outcome = with_source(adder, "def add(a, b):\n    while True:\n        pass\n", limit_s=3.0)
    assert outcome.code is None
    assert not outcome.passed
    assert 3.0 <= time.monotonic() - start < 30.0


def test_a_break_that_takes_too_much_memory_is_found(adder: Path) -> None:
    assert not with_source(adder, "def add(a, b):\n    return len(bytearray(1 << 40))\n").passed
