"""Where the teacher of ``distill_model=auto`` belongs, and whose it is; no training."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ultralytics.utils import DEFAULT_CFG_DICT

if "distill_model" not in DEFAULT_CFG_DICT:
    pytest.skip("this host cannot distil", allow_module_level=True)

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.plugin import auto_teacher
from ultra_dsmoe.plugin.auto_teacher import RECORD, trained_teacher


class FakeYOLO:
    """As much of the host's object as the teacher's training needs; writes checkpoints in place of training."""

    trained: list[dict[str, Any]] = []  # noqa: RUF012  # of all objects, as the test wants to see them
    fails = False

    def __init__(self, model: str, task: str = "detect") -> None:
        self.overrides: dict[str, Any] = {"model": model}
        self.task, self.model = task, SimpleNamespace(yaml={"depth": 1})

    def train(self, **arguments: Any) -> None:
        type(self).trained.append({"model": self.overrides["model"], **arguments})
        if self.fails:
            raise ConfigError("x", "y", "z")
        if not arguments.get("resume"):
            leave(Path(arguments["project"]) / arguments["name"], -1)


def leave(run: Path, epoch: int) -> Path:
    """Leave the checkpoints of a training that came as far as ``epoch``."""
    (run / "weights").mkdir(parents=True, exist_ok=True)
    for name in ("best.pt", "last.pt"):
        net = torch.nn.Conv2d(1, 1, 1)
        torch.save({"model": net, "epoch": epoch, "train_args": {"task": "detect"}}, run / "weights" / name)
    return run


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeYOLO, "trained", [])


def train(folder: Path, **arguments: Any) -> str:
    usual = {"data": "d.yaml", "epochs": 5, "project": str(folder), "name": "run", "distill_model": "auto"}
    given = {key: value for key, value in {**usual, "dsmoe_kd": "self", **arguments}.items() if value is not None}
    return trained_teacher(FakeYOLO("yolov8n.yaml"), given, None)


def test_it_trains_with_half_of_the_epochs_beside_the_student(tmp_path: Path) -> None:
    found = train(tmp_path, imgsz=64, device="cpu", dsmoe_text="hash")
    assert found == str(tmp_path / "run-teacher" / "weights" / "best.pt")
    assert FakeYOLO.trained == [
        {
            "model": "yolov8n.yaml", "data": "d.yaml", "epochs": 3, "imgsz": 64, "device": "cpu", "dsmoe_text": "hash",
            "project": str(tmp_path), "name": "run-teacher", "exist_ok": True,
        }
    ]  # fmt: skip
    assert not (tmp_path / "run").exists(), "the student's folder is the host's to make"


@pytest.mark.parametrize(("epochs", "half"), [(1, 1), (2, 1), (7, 4), (None, 50)])
def test_half_is_rounded_up(epochs: int | None, half: int, tmp_path: Path) -> None:
    train(tmp_path, epochs=epochs)
    assert FakeYOLO.trained[0]["epochs"] == half


def test_hours_are_halved_too(tmp_path: Path) -> None:
    train(tmp_path, time=3)
    assert FakeYOLO.trained[0]["time"] == 1.5


def test_it_stands_beside_the_students_folder_and_is_found_by_a_second_student(tmp_path: Path) -> None:
    first = train(tmp_path)
    assert first == str(tmp_path / "run-teacher" / "weights" / "best.pt")
    (tmp_path / "run").mkdir()  # the first student's, so that the second one's gets a number
    assert train(tmp_path) == first
    assert len(FakeYOLO.trained) == 1
    other = tmp_path / "elsewhere" / "mine"
    assert train(tmp_path, save_dir=str(other)) == str(other.parent / "mine-teacher" / "weights" / "best.pt")


def test_a_finished_one_is_used_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = train(tmp_path)
    assert train(tmp_path, device="cpu", plots=False) == first, "where it runs is nothing to the teacher"
    assert len(FakeYOLO.trained) == 1
    assert f"the teacher in {tmp_path / 'run-teacher'} is finished, used again" in caplog.text


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_an_interrupted_one_goes_on(epoch: int, tmp_path: Path) -> None:
    """Of three epochs; after the last one nothing is left but to tidy up."""
    train(tmp_path)
    leave(tmp_path / "run-teacher", epoch)
    assert train(tmp_path) == str(tmp_path / "run-teacher" / "weights" / "best.pt")
    again = FakeYOLO.trained[1:]
    last = str(tmp_path / "run-teacher" / "weights" / "last.pt")
    assert again == ([{"model": last, "resume": True}] if epoch < 2 else [])


def test_a_damaged_one_is_trained_anew(tmp_path: Path) -> None:
    train(tmp_path)
    for file in (tmp_path / "run-teacher" / "weights").iterdir():
        file.write_bytes(b"")
    train(tmp_path)
    assert [call["name"] for call in FakeYOLO.trained] == ["run-teacher"] * 2


@pytest.mark.parametrize("other", [{"imgsz": 96}, {"epochs": 9}, {"data": "other.yaml"}, {"seed": 1}])
def test_another_training_gets_another_teacher(other: dict[str, Any], tmp_path: Path) -> None:
    train(tmp_path)
    assert "run-teacher2" in train(tmp_path, **other)
    assert len(FakeYOLO.trained) == 2


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    strange = leave(tmp_path / "run-teacher", -1)
    before = sorted(strange.rglob("*"))
    assert "run-teacher2" in train(tmp_path)
    assert sorted(strange.rglob("*")) == before


def test_a_teacher_at_work_is_left_alone(tmp_path: Path) -> None:
    """A second command of the same words, while the first one trains its teacher."""
    pytest.importorskip("fcntl")
    train(tmp_path)
    leave(tmp_path / "run-teacher", 0)
    with auto_teacher._alone(tmp_path / "run-teacher") as alone:
        assert alone
        assert "run-teacher2" in train(tmp_path)
    assert "run-teacher2" not in train(tmp_path)


def test_a_training_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeYOLO, "fails", True)
    with pytest.raises(ConfigError, match="x: expected y, got z"):
        train(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    leave(tmp_path / "begun" / "other", 0)
    with pytest.raises(ConfigError):
        train(tmp_path / "begun")
    assert [p.name for p in (tmp_path / "begun").iterdir()] == ["other"]


def test_what_was_begun_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path)
    leave(tmp_path / "run-teacher", 0)
    monkeypatch.setattr(FakeYOLO, "fails", True)
    with pytest.raises(ConfigError):
        train(tmp_path)
    assert (tmp_path / "run-teacher" / "weights" / "last.pt").exists()
    assert json.loads((tmp_path / "run-teacher" / RECORD).read_text())["epochs"] == "3"


def test_several_data_sets_have_no_one_teacher(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"distill_model: expected .* auto with one data set, got auto with several"):
        train(tmp_path, data=["a.yaml", "b.yaml"])
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match="a folder that can be made") as e:
        train(tmp_path / "file")
    assert "\n" not in str(e.value)
