"""``dsmoe-yolo reference preview``: the picture, what it says, and one-line errors with nothing written."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ultra_dsmoe import cli
from ultra_dsmoe.commands import reference
from ultra_dsmoe.data.boards import demo
from ultra_dsmoe.errors import DSMoEError


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data YAML of boards with references."""
    return demo.generate(tmp_path_factory.mktemp("pairs") / "set", train=3, val=2, size=160, references=True)


def test_command_draws_and_says_what_is_wrong(
    boards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(boards.parent, tmp_path / "set")
    golden, out = tmp_path / "set" / "references" / "train", tmp_path / "pairs.png"
    golden.joinpath("board_00002.jpg").unlink()
    shutil.copy(golden / "board_00000.jpg", golden / "board_00001.jpg")
    words = ["dsmoe-yolo", "reference", "preview", str(tmp_path / "set" / "data.yaml"), f"out={out}"]
    monkeypatch.setattr(sys, "argv", words)
    assert cli.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("board_00001.jpg: the reference seems to show another product (mismatch ")
    assert lines[1:] == ["board_00002.jpg: no reference", f"written: {out}"]
    picture = Image.open(out)
    assert picture.format == "PNG"
    assert picture.width > picture.height > 400  # two pairs side by side, two rows
    assert len(np.unique(np.asarray(picture.convert("L")))) > 100


def test_all_is_well(boards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(boards), "split=val", "pairs=1", "align=shift", f"out={tmp_path / 'p.png'}"]
    assert reference.PREVIEW.main(words) == 0
    assert "all 1 pairs show the same product" in capsys.readouterr().out


def test_the_key_wins_over_the_data(
    boards: Path, tiny_boards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Boards that have none can be shown with some, as long as both show the same piece."""
    golden = shutil.copytree(tiny_boards.parent / "images", tmp_path / "golden")
    value = f"dsmoe_reference={{folder: {golden}, missing: blank}}"
    assert reference.PREVIEW.main([str(tiny_boards), value, "pairs=2", f"out={tmp_path / 'p.png'}"]) == 0
    assert "all 2 pairs show the same product" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "data: expected a data YAML as first argument, such as neu-det.yaml, got none"),
        (["TINY"], "reference: expected reference: in the data YAML, or dsmoe_reference=, got .* without"),
        (
            ["DATA", "dsmoe_reference=none"],
            "reference: expected reference: in the data YAML, .*got dsmoe_reference=none",
        ),
        (
            ["DATA", "dsmoe_reference=nowhere"],
            "dsmoe_reference: expected a folder with known-good pictures, got .*nowhere",
        ),
        (["DATA", "dsmoe_reference={foldr: a}"], r"dsmoe_reference: expected keys out of .*did you mean 'folder'"),
        (["DATA", "split=vall"], r"split: expected one of train, val, test \(did you mean 'val'\?\), got vall"),
        (["DATA", "split=test"], "split: expected one with images, got test"),
        (["DATA", "pairs=13"], "pairs: expected a whole number from 1 to 12, got 13"),
        (["DATA", "align=turn"], "align: expected one of none, shift, affine"),
        (["DATA", "out=pairs.jpg"], "out: expected a file that ends in .png"),
    ],
)
def test_wrong_words_are_one_line(
    words: list[str], message: str, boards: Path, tiny_boards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [{"DATA": str(boards), "TINY": str(tiny_boards)}.get(word, word) for word in words]
    with pytest.raises(DSMoEError, match=f"^{message}") as caught:
        reference.PREVIEW.run(reference.PREVIEW.parse(words))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
