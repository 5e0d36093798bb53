"""A training that is killed while it writes, or whose disk is full, loses nothing and goes on."""

from __future__ import annotations

import csv
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ultralytics import YOLO
from ultralytics.engine import trainer as engine

from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.train.generations import PREVIOUS, SIDE, flaw
from ultra_dsmoe.train.trainer import DSMoETrainer

QUICK = {"imgsz": 64, "batch": 4, "workers": 0, "plots": False, "device": "cpu", "exist_ok": True, "verbose": False}


@pytest.fixture(scope="module")
def interrupted(tiny_boards: Path, tmp_path_factory: pytest.TempPathFactory) -> DSMoETrainer:
    """Return the trainer of a run of three epochs that was stopped after its second."""
    kept: list[DSMoETrainer] = []

    def stop(trainer: DSMoETrainer) -> None:
        if trainer.epoch == 1:
            kept.append(trainer)
            raise KeyboardInterrupt

    yolo = YOLO("dsmoe-n.yaml")
    yolo.add_callback("on_model_save", stop)
    project = str(tmp_path_factory.mktemp("runs"))
    with pytest.raises(KeyboardInterrupt):
        yolo.train(data=tiny_boards, epochs=3, project=project, name="run", dsmoe_text="hash", **QUICK)
    return kept[0]


@pytest.fixture
def trainer(interrupted: DSMoETrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DSMoETrainer:
    """Return that trainer in its third epoch, with a copy of its run's files."""
    shutil.copytree(interrupted.save_dir, tmp_path / "run")
    weights = tmp_path / "run" / "weights"
    places = {"wdir": weights, "last": weights / "last.pt", "best": weights / "best.pt", "epoch": 2}
    for name, value in {**places, "csv": tmp_path / "run" / "results.csv", "fitness": 1.0, "best_fitness": 1.0}.items():
        monkeypatch.setattr(interrupted, name, value)
    return interrupted


class Killed(BaseException):
    """The end of the process, as far as files are concerned: what is on the disk then is kept in ``weights``."""

    def __init__(self, weights: Path) -> None:
        self.weights = Path(f"{weights}-when-killed")
        shutil.copytree(weights, self.weights)


def killed(work: Callable[[], object]) -> Path:
    """Do ``work``, which must not come to its end; return the weights folder as it was when its process was killed."""
    with pytest.raises(Killed) as caught:
        work()
    return caught.value.weights


def epochs(weights: Path) -> dict[str, int]:
    """Return the epoch of every checkpoint, all of which must be whole."""
    assert not [path for path in weights.glob("*.pt") if flaw(path)]
    return {path.name: torch.load(path, weights_only=False)["epoch"] for path in weights.glob("*.pt")}


def test_the_last_two_are_there_and_nothing_else(trainer: DSMoETrainer) -> None:
    found = epochs(trainer.wdir)
    assert (found["last.pt"], found[PREVIOUS]) == (1, 0)
    assert {path.name for path in trainer.wdir.iterdir()} == {"last.pt", "best.pt", PREVIOUS}


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_killed_halfway_through_a_file(name: str, trainer: DSMoETrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    before, weights, stock = epochs(trainer.wdir), trainer.wdir, Path.write_bytes

    def write_bytes(path: Path, data: bytes) -> int:
        if path.name != name:
            return stock(path, data)
        stock(path, data[: len(data) // 2])
        raise Killed(weights)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert epochs(killed(trainer.save_model)) == before


@pytest.mark.parametrize(
    ("name", "last", "best"), [("best.pt", 1, None), ("last.pt", 1, 2), (PREVIOUS, 2, 2)], ids=["none", "best", "all"]
)
def test_killed_between_two_files(
    name: str, last: int, best: int | None, trainer: DSMoETrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = epochs(trainer.wdir)

    def replace(source: Path, target: Path) -> None:
        if target.name == name:
            raise Killed(target.parent)
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        weights = killed(trainer.save_model)
    after = epochs(weights)
    assert (after["last.pt"], after["best.pt"]) == (last, before["best.pt"] if best is None else best)
    assert (weights / SIDE).exists(), "nobody was there to clear up"
    trainer.wdir, trainer.last, trainer.best = weights, weights / "last.pt", weights / "best.pt"
    trainer.save_model()
    assert epochs(weights) == {"last.pt": 2, "best.pt": 2, PREVIOUS: last}
    assert not (weights / SIDE).exists()


def test_a_damaged_file_is_not_kept(trainer: DSMoETrainer) -> None:
    trainer.last.write_bytes(trainer.last.read_bytes()[:1000])
    trainer.save_model()
    assert epochs(trainer.wdir) == {"last.pt": 2, "best.pt": 2, PREVIOUS: 0}


def test_results_of_an_earlier_release_keep_their_columns(
    trainer: DSMoETrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[dict[str, float]] = []
    monkeypatch.setattr(engine.BaseTrainer, "save_metrics", lambda _self, metrics: written.append(metrics))
    row = {"train/align_loss": 1.0, "val/box_loss": 2.0, "val/align_loss": 0.0}
    for header in ("epoch,time,train/align_loss\n", "epoch,time, val/align_loss\n"):
        trainer.csv.write_text(header)
        trainer.save_metrics(row)
    assert ["val/align_loss" in columns for columns in written] == [False, True]
    assert all("train/align_loss" in columns and "val/box_loss" in columns for columns in written)


def test_killed_while_the_host_strips_at_the_end(trainer: DSMoETrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    before, weights, stock = epochs(trainer.wdir), trainer.wdir, torch.save

    def save(content: object, path: Any, *args: Any, **kwargs: Any) -> None:
        stock(content, path, *args, **kwargs)
        os.truncate(path, os.path.getsize(path) // 2)
        raise Killed(weights)

    monkeypatch.setattr(torch, "save", save)
    assert epochs(killed(trainer.final_eval)) == before


def test_stripping_for_others_is_the_hosts(trainer: DSMoETrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    places, stock = [], torch.save

    def save(content: object, path: Any) -> None:
        places.append(str(path))
        stock(content, path)

    monkeypatch.setattr(torch, "save", save)
    assert engine.strip_optimizer(trainer.last)["epoch"] == -1
    assert places == [str(trainer.last)]
    assert flaw(trainer.last) is None
    assert YOLO(trainer.last).model.text_info["encoder"] == "hash", "what the host has written anew loads"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_is_one_line(code: int, trainer: DSMoETrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    before, stock = epochs(trainer.wdir), Path.write_bytes

    def write_bytes(path: Path, data: bytes) -> int:
        stock(path, data[: len(data) // 2])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    monkeypatch.setattr(trainer, "_do_train", lambda *_: trainer.save_model())
    message = f"a disk that can be written, got {os.strerror(code)}; its last checkpoint is whole"
    with pytest.raises(DataError, match=message):
        trainer.train()
    monkeypatch.setattr(Path, "write_bytes", stock)
    assert epochs(trainer.wdir) == before
    assert not (trainer.wdir / SIDE).exists()


def test_other_errors_stay_what_they_are(trainer: DSMoETrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "gone")

    monkeypatch.setattr(trainer, "_do_train", fail)
    with pytest.raises(FileNotFoundError):
        trainer.train()


def test_a_damaged_run_goes_on_with_one_row_per_epoch(
    interrupted: DSMoETrainer, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed in a file written in place, behind the row of the third epoch, whose successor is half."""
    run, last = interrupted.save_dir, interrupted.last
    with open(run / "results.csv", "a", encoding="utf-8") as table:
        table.write("3,9.9,0,0,0\n4,1")
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    shutil.copy(last.with_name(PREVIOUS), interrupted.best)  # else the best one, as new as the last
    began: list[tuple[str, int]] = []
    yolo = YOLO(last)
    yolo.add_callback("on_train_start", lambda t: began.append((Path(t.args.model).name, t.start_epoch)))
    yolo.train(resume=True, plots=False)
    assert f"{last} is cut short: {PREVIOUS} of epoch 1 takes its place" in caplog.text
    assert began == [(PREVIOUS, 1)]
    with open(run / "results.csv", encoding="utf-8") as table:
        assert [row["epoch"] for row in csv.DictReader(table)] == ["1", "2", "3"]
    assert {path.name for path in last.parent.iterdir()} == {"last.pt", "best.pt"}
    with pytest.raises(ConfigError, match="resume: expected a run with epochs left to train"):
        DSMoETrainer(overrides={"resume": str(last), "model": str(last)}).train()
