"""What the tests of bad input share: wrong data sets and files by kind, and how a refused command has to end."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ultra_dsmoe.errors import DSMoEError

# A net of ours that is built in no time.
SMALL = {
    "nc": 6,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], *([-1, 1, "Conv", [16, 3, 2]] for _ in range(2)), [-1, 1, "CBAM", []]],
    "head": [[-1, 1, "Conv", [16, 3, 2]], [[3, 4], 1, "DualAttentionDetect", ["nc"]]],
}
NAMES = {0: "spur", 1: "short"}
Make = Callable[[Path, Path], str]  # (empty folder, data YAML of the boards) -> what to name on the command line


def one_line(error: BaseException, *parts: str) -> None:
    """Check that a user error is one line that says argument, expectation and what came."""
    assert isinstance(error, DSMoEError), repr(error)
    well_formed(str(error), *parts)


def well_formed(text: str, *parts: str) -> None:
    """Check the form of an error's text."""
    assert "\n" not in text
    argument, _, rest = text.partition(": expected ")
    assert argument
    assert ", got " in rest, text
    for part in parts:
        assert part in text, text


def written(content: bytes, name: str = "data.yaml") -> Make:
    """Return a maker of a file with this content."""

    def make(folder: Path, boards: Path) -> str:
        (folder / name).write_bytes(content)
        return str(folder / name)

    return make


def changed(**sections: Any) -> Make:
    """Return a maker of the boards' data YAML with other sections; None takes one away."""

    def make(folder: Path, boards: Path) -> str:
        content = {**yaml.safe_load(boards.read_text()), "path": str(boards.parent), **sections}
        return written(yaml.safe_dump({k: v for k, v in content.items() if v is not None}).encode())(folder, boards)

    return make


def spoiled(place: str, content: bytes) -> Make:
    """Return a maker of the board set with this content in all files of ``images`` or ``labels``."""

    def make(folder: Path, boards: Path) -> str:
        shutil.copytree(boards.parent, folder / "set", ignore=shutil.ignore_patterns("*.cache"))
        for file in (folder / "set" / place).rglob("*.*"):
            file.write_bytes(content)
        return changed(path=str(folder / "set"))(folder, boards)

    return make


def entries(first: Any) -> dict[int, Any]:
    """Return names of six classes, of which the first is something else."""
    return {0: first, **{i: f"class {i}" for i in range(1, 6)}}


DATA: dict[str, tuple[Make, str]] = {
    "missing": (lambda folder, boards: "nowhere.yaml", "nowhere.yaml"),
    "folder": (lambda folder, boards: str(folder), "No YAML file found"),
    "no YAML": (written(b"x", "data.txt"), "data.txt"),
    "binary": (written(bytes(range(256))), "data.yaml"),
    "broken": (written(b"a: [1\nb: }"), "data.yaml"),
    "empty": (written(b""), "key missing"),
    "list": (written(b"- a\n- b\n"), "mapping"),
    "word": (written(b"hello"), "mapping"),
    "no train": (changed(train=None), "'train:' key missing"),
    "no val": (changed(val=None), "'val:' key missing"),
    "train a number": (changed(train=5), "'train' must be"),
    "val a list of numbers": (changed(val=[5]), "int"),
    "path a number": (changed(path=5), "'path' must be"),
    "missing images": (changed(train="images/none", val="images/none"), "none"),
    "nc and names at odds": (changed(nc=3), "must match"),
    "nc a word": (changed(nc="six"), "nc: six"),
    "nc a word alone": (changed(names=None, nc="six"), "nc: six"),
    "no classes": (changed(names={}), "at least one class"),
    "neither nc nor names": (changed(names=None), "'names' or 'nc'"),
    "names a word": (changed(names="abcdef"), "'names' must be"),
    "names a number": (changed(names=6), "'names' must be"),
    "names with a gap": (changed(names={0: "a", 2: "b"}), "class indices 0-1"),
    "names by words": (changed(names={"a": "x", "b": "y"}), "invalid literal"),
    "a name null": (changed(names=entries(None)), "names[0]: expected the name of a class"),
    "a name a list": (changed(names=entries(["a", "b"])), "names[0]: expected the name of a class"),
    "a name a mapping": (changed(names=[{"a": 1}, "b", "c", "d", "e", "f"]), "names[0]: expected the name of a class"),
    "channels 0": (changed(channels=0), "channels: expected"),
    "channels a word": (changed(channels="rgb"), "channels: expected"),
    "no picture": (spoiled("images", b"no picture"), "No valid images found"),
    "empty pictures": (spoiled("images", b""), "No valid images found"),
    "labels of words": (spoiled("labels", b"spur a b c d\n"), "No valid images found"),
    "labels of NaN": (spoiled("labels", b"0 nan nan nan nan\n"), "No valid images found"),
    "labels of class 9": (spoiled("labels", b"9 .5 .5 .1 .1\n"), "No valid images found"),
    "labels too short": (spoiled("labels", b"0 .5 .5\n"), "No valid images found"),
    "labels binary": (spoiled("labels", bytes(range(256))), "No valid images found"),
}


def without_content(folder: Path, boards: Path) -> str:
    """Return a folder in the place of a checkpoint."""
    (folder / "best.pt").mkdir()
    return str(folder / "best.pt")


def plain_file(folder: Path) -> Path:
    """Return a file that stands where a folder is expected."""
    (folder / "file").write_text("mine")
    return folder / "file"
