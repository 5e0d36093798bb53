"""A run folder that is taken away again: only what this very run made, only while nothing else is in it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ultra_dsmoe.train import run_folder
from ultra_dsmoe.train.run_folder import RunFolder


class Host:
    """What the mixin sees of the host's trainer: settled arguments, then the folder with its first two entries."""

    def __init__(self, folder: Path, *, fails: bool = False, resume: bool = False) -> None:
        self.folder, self.fails, self.resume = folder, fails, resume
        self.args = SimpleNamespace()
        self.check_resume({})
        self.save_dir, self.wdir = folder, folder / "weights"
        self.wdir.mkdir(parents=True, exist_ok=True)
        (folder / "args.yaml").write_text("lr: 1\n")
        self.data = self.get_dataset()

    def train(self) -> str:
        if self.data == "bad data":
            raise RuntimeError("no classes")
        return "trained"

    def check_resume(self, overrides: Any) -> None:
        self.args.save_dir = str(self.folder)

    def get_dataset(self) -> str:
        if self.fails:
            raise RuntimeError("no images")
        return "the data"


class Trainer(RunFolder, Host):
    """A trainer of no net."""


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "get_save_dir", lambda args: args.save_dir)
    monkeypatch.setattr(run_folder, "RANK", -1)
    monkeypatch.setattr(run_folder, "LOCAL_RANK", -1)


def test_a_new_folder_goes_with_the_folders_made_for_it(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    Trainer(tmp_path / "runs" / "detect" / "train").discard_run()
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]


def test_a_folder_above_stays_where_another_run_is_in_it(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / "detect" / "train2")
    (tmp_path / "detect" / "train").mkdir()
    trainer.discard_run()
    assert list(tmp_path.rglob("*")) == [tmp_path / "detect", tmp_path / "detect" / "train"]


def test_a_folder_that_existed_stays(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    trainer = Trainer(tmp_path / "train")
    trainer.discard_run()
    assert (tmp_path / "train" / "args.yaml").is_file()
    assert (tmp_path / "train" / "weights").is_dir()


@pytest.mark.parametrize("name", ["results.csv", "weights/last.pt"])
def test_a_folder_with_anything_else_stays_whole(tmp_path: Path, name: str) -> None:
    trainer = Trainer(tmp_path / "train")
    (tmp_path / "train" / name).write_text("work")
    trainer.discard_run()
    assert (tmp_path / "train" / name).read_text() == "work"
    assert (tmp_path / "train" / "args.yaml").is_file()


def test_the_folder_of_a_resumed_run_stays(tmp_path: Path) -> None:
    Trainer(tmp_path / "train", resume=True).discard_run()
    assert (tmp_path / "train" / "args.yaml").is_file()


@pytest.mark.parametrize(("rank", "removed"), [(-1, True), (0, True), (1, False)])
def test_in_a_distributed_run_only_the_first_worker_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, removed: bool
) -> None:
    trainer = Trainer(tmp_path / "train")
    monkeypatch.setattr(run_folder, "RANK", rank)
    trainer.discard_run()
    assert (tmp_path / "train").exists() is not removed


def test_a_distributed_worker_removes_what_the_process_that_started_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train").mkdir()
    trainer = Trainer(tmp_path / "train")
    monkeypatch.setattr(run_folder, "RANK", 0)
    monkeypatch.setattr(run_folder, "LOCAL_RANK", 0)
    trainer.discard_run()
    assert not (tmp_path / "train").exists()


def test_data_that_cannot_be_read_leave_no_folder_and_their_own_error(tmp_path: Path) -> None:
    assert Trainer(tmp_path / "a").train() == "trained"
    assert (tmp_path / "a").is_dir()
    with pytest.raises(RuntimeError, match=r"^no images$"):
        Trainer(tmp_path / "b", fails=True)
    assert not (tmp_path / "b").exists()


def test_a_training_that_never_began_leaves_no_folder_and_its_own_error(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / "a")
    trainer.data = "bad data"
    with pytest.raises(RuntimeError, match=r"^no classes$"):
        trainer.train()
    assert not (tmp_path / "a").exists()
    begun = Trainer(tmp_path / "b")
    begun.data = "bad data"
    (begun.wdir / "last.pt").write_text("weights")
    with pytest.raises(RuntimeError, match=r"^no classes$"):
        begun.train()
    assert (tmp_path / "b" / "weights" / "last.pt").is_file()
