"""Wrong data sets: every kind with every command that reads one ends in one line and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from refusals import DATA

Refused = Callable[..., str]


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("verb", ["train", "val"])
def test_verbs(
    verb: str, kind: str, refused: Refused, command: Callable[..., list[str]], files: Path, tiny_boards: Path
) -> None:
    make, part = DATA[kind]
    assert part in refused(*command(verb, data=make(files, tiny_boards)))


# What these commands do not read, they need not refuse.
CLASSES = {"channels 0", "channels a word", "a name null", "a name a list", "a name a mapping"}


@pytest.mark.parametrize("kind", [kind for kind in DATA if kind not in CLASSES])
@pytest.mark.parametrize("name", ["knockout", "distill-masks", "data sizes"])
def test_commands(name: str, kind: str, refused: Refused, small: Path, files: Path, tiny_boards: Path) -> None:
    data = DATA[kind][0](files, tiny_boards)
    words = [data] if name == "data sizes" else [str(small / "small.pt"), f"data={data}", f"out={files / 'out'}"]
    line = refused(*name.split(), *words, script="dsmoe-yolo")
    assert line.startswith(("data: expected", "names: expected", "knockout: expected")), line
