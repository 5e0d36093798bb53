"""What the words of a command name, opened before any work, and where results go."""

from __future__ import annotations

from pathlib import Path

import pytest

from ultra_dsmoe.commands.opening import opened, output_file, output_folder, print_notes, progress
from ultra_dsmoe.errors import ConfigError


def test_results_go_beside_the_run_or_where_told(tmp_path: Path) -> None:
    (tmp_path / "train" / "weights").mkdir(parents=True)
    assert output_folder(tmp_path / "train" / "weights" / "best.pt", None, "topk") == tmp_path / "train" / "topk"
    assert output_folder(tmp_path / "train" / "best.pt", None, "topk") == tmp_path / "train" / "topk"
    assert output_folder(tmp_path / "best.pt", str(tmp_path / "a" / "b"), "topk") == tmp_path / "a" / "b"
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    for taken in ("file", "file/below"):
        with pytest.raises(ConfigError, match=r"^out: expected a folder that can be written, got .*file"):
            output_folder(tmp_path / "best.pt", str(tmp_path / taken), "topk")


def test_a_checkpoint_is_opened_with_its_data(checkpoint: Path) -> None:
    evaluation, folder = opened({"model": str(checkpoint), "device": "cpu"}, "topk")
    assert evaluation.path == checkpoint
    assert folder == checkpoint.parent.parent / "topk"
    assert not folder.exists()


def test_a_file_that_can_be_written(tmp_path: Path) -> None:
    assert output_file(str(tmp_path / "a.png"), (".png",)) == tmp_path / "a.png"
    (tmp_path / "b.png").mkdir()
    for name in ("a.jpg", "b.png"):
        with pytest.raises(ConfigError, match=r"^out: expected a file that ends in \.png or \.svg, got "):
            output_file(str(tmp_path / name), (".png", ".svg"))
    with pytest.raises(ConfigError, match=r"^out: expected a file in a folder that exists and can be written, got "):
        output_file(str(tmp_path / "none" / "a.png"), (".png",))


def test_progress_and_results_go_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress("wording")("1/2 a.yaml")
    print_notes(["a note"], [tmp_path / "a.csv"])
    assert capsys.readouterr() == (f"a note\nwritten: {tmp_path / 'a.csv'}\n", "wording 1/2 a.yaml\n")
