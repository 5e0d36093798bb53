"""The script's words: which module gets them, the longer name first, all else to the host."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import ultralytics.cfg

from ultra_dsmoe import cli


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Put a stand-in in the place of every sub-command and of the host; return what reaches them."""
    calls: list[tuple[str, list[str]]] = []

    def stand_in(name: str) -> ModuleType:
        module = ModuleType(name)

        def main(argv: list[str]) -> int | None:
            calls.append((name, argv))
            return 3 if "fail" in argv else None

        module.main = main  # type: ignore[attr-defined]
        return module

    for name in cli.SUBCOMMANDS.values():
        monkeypatch.setitem(sys.modules, name, stand_in(name))
    monkeypatch.setattr(ultralytics.cfg, "entrypoint", lambda: calls.append(("host", sys.argv[1:])))
    return calls


def run(monkeypatch: pytest.MonkeyPatch, words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dsmoe-yolo", *words.split()])
    return cli.main()


@pytest.mark.parametrize("name", cli.SUBCOMMANDS)
def test_every_name_reaches_its_module(monkeypatch: pytest.MonkeyPatch, called: list, name: str) -> None:
    assert run(monkeypatch, f"{name} best.pt k=2") == 0
    assert called == [(cli.SUBCOMMANDS[name], ["best.pt", "k=2"])]


@pytest.mark.parametrize(
    ("words", "name", "rest"),
    [
        ("data sizes x.yaml", "data sizes", ["x.yaml"]),  # not `data` with the word `sizes`
        ("data list", "data", ["list"]),
        ("data", "data", []),
        ("data sizes", "data sizes", []),
        ("topk data sizes", "topk", ["data", "sizes"]),
    ],
)
def test_the_longer_name_goes_first(
    monkeypatch: pytest.MonkeyPatch, called: list, words: str, name: str, rest: list[str]
) -> None:
    run(monkeypatch, words)
    assert called == [(cli.SUBCOMMANDS[name], rest)]


@pytest.mark.parametrize("words", ["", "train model=dsmoe-n.yaml", "sizes data", "val data", "data=x.yaml topk"])
def test_all_else_goes_to_the_host(monkeypatch: pytest.MonkeyPatch, called: list, words: str) -> None:
    assert run(monkeypatch, words) == 0
    assert called == [("host", words.split())]


def test_the_exit_code_is_the_commands(monkeypatch: pytest.MonkeyPatch, called: list) -> None:
    assert run(monkeypatch, "edge fail") == 3
