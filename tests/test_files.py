"""Files and folders under their names in one step: whole or not at all, readable by all, never over something else."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ultra_dsmoe import files
from ultra_dsmoe.errors import DataError, PlaceError
from ultra_dsmoe.files import can_write, require_unused, whole_file, whole_folder, write_files

PROC = Path("/proc")  # a folder in which nobody can make anything, whatever its permissions say


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def mask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_a_file_takes_its_place_when_it_is_complete(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "a.npz"
    path.write_text("old")
    with whole_file(path) as part:
        part.write_text("new")
        assert part.suffix == ".npz"  # writers such as NumPy's look at it
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert mode(path) == 0o666 & ~mask
    assert os.listdir(tmp_path) == ["a.npz"]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")

    def write() -> None:
        with whole_file(path) as part:
            part.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.csv"]


def test_several_files_in_a_folder_that_is_made(tmp_path: Path) -> None:
    paths = write_files(tmp_path / "new" / "deep", {"a.csv": b"1", "b.md": b"2"})
    assert [(p.name, p.read_bytes()) for p in paths] == [("a.csv", b"1"), ("b.md", b"2")]
    assert sorted(os.listdir(tmp_path / "new" / "deep")) == ["a.csv", "b.md"]


def test_a_finished_folder_is_readable_by_all(tmp_path: Path, mask: int) -> None:
    with whole_folder(tmp_path / "above" / "set") as partial:
        (partial / "data.yaml").write_text("new")
        assert not (tmp_path / "above" / "set").exists()
    assert mode(tmp_path / "above" / "set") == 0o777 & ~mask
    assert (tmp_path / "above" / "set" / "data.yaml").read_text() == "new"
    assert os.listdir(tmp_path / "above") == ["set"]


def test_an_error_leaves_no_folder(tmp_path: Path) -> None:
    def fill() -> None:
        with whole_folder(tmp_path / "set") as partial:
            (partial / "data.yaml").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fill()
    assert os.listdir(tmp_path) == []


def test_an_empty_folder_is_taken_away_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some systems do not rename onto a folder, not even an empty one."""
    (tmp_path / "set").mkdir()
    stock = Path.rename

    def strict(self: Path, target: Path) -> Path:
        assert not target.exists()
        return stock(self, target)

    monkeypatch.setattr(Path, "rename", strict)
    with whole_folder(tmp_path / "set") as partial:
        (partial / "data.yaml").write_text("new")
    assert os.listdir(tmp_path / "set") == ["data.yaml"]


def test_the_faster_process_wins(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "set") as partial:
        (partial / "data.yaml").write_text("slow")
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "data.yaml").write_text("fast")
    assert (tmp_path / "set" / "data.yaml").read_text() == "fast"
    assert os.listdir(tmp_path) == ["set"]


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    def fill() -> None:
        with whole_folder(tmp_path / "set") as partial:
            (partial / "data.yaml").write_text("new")
            (tmp_path / "set").mkdir()
            (tmp_path / "set" / "notes.txt").write_text("mine")

    with pytest.raises(DataError, match=r"set: expected a folder that can be created, got "):
        fill()
    assert os.listdir(tmp_path / "set") == ["notes.txt"]


def test_require_unused(tmp_path: Path) -> None:
    require_unused(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    require_unused(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(DataError, match=r"expected a new or empty folder; move the old one away first, got one"):
            require_unused(taken)
        with pytest.raises(DataError, match="expected a new or empty folder"), whole_folder(taken):
            raise AssertionError


@pytest.mark.skipif(not PROC.is_dir(), reason="a folder of Linux")
def test_a_place_that_cannot_be_written_is_named_as_the_user_knows_it(tmp_path: Path) -> None:
    assert can_write(tmp_path)
    assert not list(tmp_path.iterdir())
    assert not can_write(PROC)
    assert not can_write(tmp_path / "none")
    for writer in (whole_folder, whole_file):
        with pytest.raises(PlaceError, match=r"^/proc/x: expected a place that can be written, got No such file"):
            writer(PROC / "x").__enter__()
    with pytest.raises(OSError, match=r"^/proc/x/y: expected a place that can be written"):
        write_files(PROC / "x" / "y", {"a": b""})


@pytest.mark.parametrize("writer", [whole_folder, whole_file])
def test_what_a_disk_refuses_inside_is_about_that_place(writer: Callable[..., Any], tmp_path: Path) -> None:
    def meet(error: OSError | None = None) -> None:
        with writer(tmp_path / "set") as part:
            if error is None:
                (part / "none" / "x").write_text("")
            raise error

    with pytest.raises(PlaceError, match=rf"^{tmp_path}/set: expected a place that can be written, got No") as caught:
        meet()
    assert caught.value.errno
    with pytest.raises(PlaceError, match=rf"^{tmp_path}/set: expected a disk with room for what is written, got full"):
        meet(OSError(errno.ENOSPC, "full"))
    with pytest.raises(FileNotFoundError, match="photo"):  # what is read belongs to somebody else
        meet(FileNotFoundError(errno.ENOENT, "gone", "photo.png"))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a" / "b"
    assert write_files(folder, {"x.csv": b"1", "y.png": b"22"}) == [folder / "x.csv", folder / "y.png"]
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {"x.csv": b"1", "y.png": b"22"}

    def full(self: Path, data: bytes) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="disk full"):
        write_files(folder, {"x.csv": b"other"})
    assert (folder / "x.csv").read_bytes() == b"1"


@pytest.mark.parametrize("before", ["nothing", "file", "folder"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_file_or_folder_takes_the_place_of_another(kind: str, before: str, tmp_path: Path) -> None:
    def make(path: Path, kind: str, content: str) -> Path:
        if kind == "folder":
            path.mkdir()
            (path / content).touch()
        elif kind == "file":
            path.write_text(content)
        return path

    part, target = make(tmp_path / "part", kind, "new"), make(tmp_path / "target", before, "old")
    files.supplant(part, target)
    assert list(tmp_path.iterdir()) == [target]
    assert ([p.name for p in target.iterdir()] if kind == "folder" else target.read_text()) in (["new"], "new")


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(FileNotFoundError):
        files.supplant(tmp_path / "none", target)
    assert [p.name for p in tmp_path.rglob("*")] == ["target", "old"]


def test_a_set_of_files_appears_whole(tmp_path: Path) -> None:
    root = tmp_path / "made"
    with files.whole_set(root, ".side") as side:
        for name in ("b", "a"):
            (side / name).write_text("new")
        assert [p.name for p in root.iterdir()] == [".side"]
    (root / ".side").mkdir()
    (root / ".side" / "c").touch()  # of a process that was killed
    with pytest.raises(FileNotFoundError), files.whole_set(root, ".side") as side:
        (side / "a").write_bytes(b"newer" + (side / "c").read_bytes())
    assert sorted((p.name, p.read_text()) for p in root.iterdir()) == [("a", "new"), ("b", "new")]
