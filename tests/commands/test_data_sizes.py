"""``dsmoe-yolo data sizes``: one run on generated boards, and one-line errors with nothing written."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from ultra_dsmoe import cli
from ultra_dsmoe.commands import data_sizes
from ultra_dsmoe.errors import ConfigError, DataError


def test_command_prints_and_draws(
    tiny_boards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "sizes.png"
    words = ["dsmoe-yolo", "data", "sizes", str(tiny_boards), "imgsz=96", "clusters=3", f"out={output}"]
    monkeypatch.setattr(sys, "argv", words)
    assert cli.main() == 0
    out = capsys.readouterr().out.splitlines()
    assert " boxes (" in out[0]
    assert "in 12 images, longer side 96 px (median)" in out[0]
    assert [line.split()[0] for line in out[1:5]] == ["centre", "1", "2", "3"]
    assert sum(float(line.split()[3]) for line in out[2:5]) == pytest.approx(100, abs=0.2)
    assert [line.split()[0].strip(":") for line in out[5:]] == ["levels", "levels", "P2", "imgsz", "reg_max", "written"]
    assert out[7].startswith("P2: pays; ")  # boards of 96 px have tiny defects
    assert "above the images' own 96 px no detail is gained" in out[8]
    assert Image.open(output).format == "PNG"
    assert list(tmp_path.iterdir()) == [output]


def test_a_set_of_one_box_size(tiny_boards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(tiny_boards.parent, tmp_path / "set", ignore=shutil.ignore_patterns("*.cache"))
    for label in (tmp_path / "set" / "labels").rglob("*.txt"):
        label.write_text("0 0.5 0.5 0.25 0.25\n")
    words = [str(tmp_path / "set" / "data.yaml"), f"out={tmp_path / 'sizes.png'}"]
    assert data_sizes.COMMAND.main(words) == 0
    assert "\nclusters: 1 instead of 9, there are no more box sizes\n" in capsys.readouterr().out
    (tmp_path / "sizes.png").unlink()
    with pytest.raises(ConfigError, match="clusters: expected at most 1, the number of different box sizes, got 9"):
        data_sizes.COMMAND.main([*words, "clusters=9"])
    assert not (tmp_path / "sizes.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["imgsz=64"], "data: expected a data YAML as first argument, such as neu-det.yaml, got none"),
        (["DATA", "imgzs=64"], r"imgzs: expected one of .*\(did you mean 'imgsz'\?\), got an unknown key"),
        (["DATA", "clusters=0"], "clusters: expected a whole number from 1 to 64, got 0"),
        (["DATA", "clusters=64"], r"clusters: expected at most \d+, the number of different box sizes, got 64"),
        (["DATA", "out=sizes.jpg"], "out: expected a file that ends in .png"),
        (["DATA", "out=nowhere/sizes.png"], "out: expected a file in a folder that exists and can be written"),
        (["DATA", "other.yaml"], "other.yaml: expected a value, as in 'key=value', got none"),
    ],
)
def test_wrong_words_are_one_line(
    words: list[str], message: str, tiny_boards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        data_sizes.COMMAND.main([str(tiny_boards) if word == "DATA" else word for word in words])
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"data: expected a data YAML whose images are there, got .*none\.yaml"):
        data_sizes.COMMAND.main(["none.yaml"])
    assert not list(tmp_path.iterdir())


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert data_sizes.COMMAND.main(["help"]) == 0
    assert capsys.readouterr().out.startswith("usage: dsmoe-yolo data sizes DATA")
