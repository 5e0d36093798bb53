"""The script's words: our sub-commands, the longer name first; all else goes to the host."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

import pytest
import ultralytics.cfg

import ultra_dsmoe
from ultra_dsmoe import cli, commands
from ultra_dsmoe.parsing import Command

Calls = list[tuple[str, list[str]]]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Let every sub-command and the host note what reaches them instead of working."""
    calls: Calls = []

    def main(self: Command, argv: list[str]) -> int:
        calls.append((self.words, argv))
        return 3 if "fail" in argv else 0

    monkeypatch.setattr(Command, "main", main)
    monkeypatch.setattr(ultralytics.cfg, "entrypoint", lambda: calls.append(("host", sys.argv[1:])))
    return calls


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    def run(words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["dsmoe-yolo", *words.split()])
        return cli.main()

    return run


@pytest.mark.parametrize("name", commands.TABLE)
def test_every_name_reaches_its_command(run: Callable[[str], int], called: Calls, name: str) -> None:
    assert run(f"{name} best.pt k=2") == 0
    assert called == [(name, ["best.pt", "k=2"])]


@pytest.mark.parametrize(("name", "entry"), commands.TABLE.items())
def test_the_table_and_the_commands_agree(name: str, entry: commands.Entry) -> None:
    command = getattr(import_module(f"ultra_dsmoe.commands.{entry.module}"), entry.name)
    assert command.words == name
    assert set(command.bare) <= set(command.options)
    assert not {"output", "outdir", "save_dir", "seeds"} & set(command.options), "one word for one thing"


def test_the_exit_code_is_the_commands(run: Callable[[str], int], called: Calls) -> None:
    assert run("topk fail") == 3


@pytest.mark.parametrize("words", ["train model=dsmoe-n.yaml", "model=best.pt", "checks", "detect predict", "settings"])
def test_other_words_are_the_hosts(run: Callable[[str], int], called: Calls, words: str) -> None:
    assert run(words) == 0
    assert called == [("host", words.split())]


@pytest.mark.parametrize("words", ["version", "--version", "-v"])
def test_the_version_is_ours_and_the_hosts(
    run: Callable[[str], int], called: Calls, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    assert run(words) == 0
    assert capsys.readouterr().out == f"ultra-dsmoe {ultra_dsmoe.__version__}, ultralytics {ultralytics.__version__}\n"
    assert called == []


@pytest.mark.parametrize("words", ["", "help", "--help", "-h"])
def test_the_page_lists_every_command(
    run: Callable[[str], int], called: Calls, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    assert run(words) == 0
    page = capsys.readouterr().out
    listed = [line for line in page.splitlines() if line.startswith("  ") and not line.startswith("  dsmoe-yolo")]
    assert [line[2:].split("  ")[0] for line in listed] == list(commands.TABLE)
    assert all(len(line.split("  ")[-1].split()) >= 4 for line in listed), "a line each says what it does"
    assert "train|val|predict" in page
    assert called == []


@pytest.mark.parametrize("words", ["data", "edge --help", "text help"])
def test_a_group_lists_its_own(
    run: Callable[[str], int], called: Calls, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    assert run(words) == 0
    group = words.split()[0]
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in lines] == [group] * sum(name.startswith(group) for name in commands.TABLE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("knokout best.pt", "error: command: expected one of ours or of Ultralytics' (did you mean 'knockout'?), got"),
        ("data mkae pcb-demo", "did you mean 'make'?"),
    ],
)
def test_a_near_miss_is_named(
    run: Callable[[str], int], called: Calls, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(words)
    assert stop.value.code == 1
    assert said in capsys.readouterr().err
    assert called == []
