"""Finished folders under their final name: readable by all, never over something else."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from ultra_dsmoe.data.placing import move_into_place, require_unused
from ultra_dsmoe.errors import DataError


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    """A finished folder as `tempfile` makes it: private."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    (folder / "data.yaml").write_text("new")
    return folder


def test_a_private_folder_becomes_readable_by_all(partial: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(partial.stat().st_mode) == 0o700
    move_into_place(partial, tmp_path / "set")
    assert stat.S_IMODE((tmp_path / "set").stat().st_mode) == 0o755
    assert (tmp_path / "set" / "data.yaml").read_text() == "new"
    assert not partial.exists()


def test_an_empty_folder_is_replaced(partial: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    move_into_place(partial, tmp_path / "set")
    assert os.listdir(tmp_path / "set") == ["data.yaml"]


def test_an_empty_folder_is_taken_away_first(partial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some systems do not rename onto a folder, not even an empty one."""
    (tmp_path / "set").mkdir()
    stock = Path.rename

    def strict(self: Path, target: Path) -> Path:
        assert not target.exists()
        return stock(self, target)

    monkeypatch.setattr(Path, "rename", strict)
    move_into_place(partial, tmp_path / "set")
    assert (tmp_path / "set" / "data.yaml").is_file()


def test_the_faster_process_wins(partial: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "data.yaml").write_text("old")
    move_into_place(partial, tmp_path / "set")
    assert (tmp_path / "set" / "data.yaml").read_text() == "old"


def test_nothing_else_is_overwritten(partial: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"set: expected a folder that can be created, got "):
        move_into_place(partial, tmp_path / "set")
    assert os.listdir(tmp_path / "set") == ["notes.txt"]
    assert (partial / "data.yaml").is_file()


def test_require_unused(tmp_path: Path) -> None:
    require_unused(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    require_unused(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(DataError, match=r"expected a new or empty folder; move the old one away first, got one"):
            require_unused(taken)
