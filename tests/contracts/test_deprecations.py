"""No former name outlives the version that it was promised until. Read from the syntax trees: none can be forgotten."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.version import Version

import ultra_dsmoe
from ultra_dsmoe.deprecations import Former

PACKAGE = Path(__file__).resolve().parents[2] / "ultra_dsmoe"


def goes(source: str) -> Iterator[tuple[int, str | None]]:
    """Yield line and version of every `Former` that is made in a file; None where it does not stand there as text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == Former.__name__:
            given = [*node.args[1:2], *(word.value for word in node.keywords if word.arg == "goes")]
            value = given[0].value if given and isinstance(given[0], ast.Constant) else None
            yield node.lineno, value if isinstance(value, str) else None


def outlived(source: str, version: str) -> list[str]:
    """Return what is wrong with the former names of a file."""
    found = []
    for line, gone in goes(source):
        if gone is None:
            found.append(f"line {line}: expected the version as text")
        elif Version(version) >= Version(gone):
            found.append(f"line {line}: was to be gone from {gone} on, this is {version}")
    return found


def test_none_outlives_its_version() -> None:
    sources = {file: file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py")}
    assert any(list(goes(source)) for source in sources.values()), "no former name was found"
    now = ultra_dsmoe.__version__
    found = [f"{file}, {line}" for file, source in sources.items() for line in outlived(source, now)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a = {'old': Former('new', goes='0.3.0')}", "line 1: was to be gone from 0.3.0 on, this is 0.3.0"),
        ("import d\nd.Former('new', '0.2.0').warn('old')", "line 2: was to be gone from 0.2.0 on, this is 0.3.0"),
        ("Former('new', goes=later)", "line 1: expected the version as text"),
    ],
)
def test_a_planted_one_is_found(source: str, message: str) -> None:
    assert outlived(source, "0.3.0") == [message]


@pytest.mark.parametrize("version", ["0.2.9", "0.3.0.dev1"])
def test_one_with_time_left_is_not_reported(version: str) -> None:
    assert outlived("Former('new', goes='0.3.0')", version) == []
