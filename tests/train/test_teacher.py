"""Which files may be a teacher, how it comes, and which students it suits; without a net where none is needed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from net_checks import save_net
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from ultra_dsmoe.errors import ConfigError, WeightsError
from ultra_dsmoe.train import teacher
from ultra_dsmoe.train.teacher import check_classes, check_file, check_teacher, load_teacher


def net(names: Any = ("a", "b"), channels: int | None = None) -> Any:
    return SimpleNamespace(names=names, yaml={} if channels is None else {"channels": channels})


@pytest.fixture
def weights_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "weights").mkdir()
    monkeypatch.setitem(teacher.SETTINGS, "weights_dir", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "weights"


# which files ----------------------------------------------------------------------------------------------------------


def test_files_here_and_in_the_hosts_folder(weights_dir: Path) -> None:
    Path("here.pt").touch()
    (weights_dir / "there.PT").touch()
    assert check_file(" here.pt ") == "here.pt"
    assert check_file("there.PT") == "there.PT"
    assert check_file(Path("here.pt")) == "here.pt"


@pytest.mark.parametrize("name", ["yolov8n.pt", "some/where/yolov8n.pt", "https://host.test/t.pt"])
def test_what_the_host_fetches_need_not_be_here(weights_dir: Path, name: str) -> None:
    assert check_file(name) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.pt", r"^distill_model: expected an existing checkpoint, got gone\.pt, which is not a file$"),
        ("weights.pt", r"got weights\.pt, which is not a file$"),  # a folder
        ("net.onnx", r"^distill_model: expected the teacher's checkpoint \(\.pt\), got net\.onnx$"),
        ("dsmoe-n.yaml", r"the teacher's checkpoint \(\.pt\)"),
        ("", r"the teacher's checkpoint \(\.pt\)"),
    ],
)
def test_other_names(weights_dir: Path, name: str, message: str) -> None:
    Path("weights.pt").mkdir()
    Path("net.onnx").touch()
    with pytest.raises(WeightsError, match=message):
        check_file(name)


def test_the_error_bears_the_name_of_the_argument(weights_dir: Path) -> None:
    with pytest.raises(WeightsError, match=r"^teacher: "):
        check_file("gone.pt", "teacher")
    Path("bad.pt").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"^teacher: expected a readable checkpoint, got bad\.pt \(\w+: "):
        load_teacher("bad.pt", "teacher")


# how it comes ---------------------------------------------------------------------------------------------------------


def test_a_teacher_comes_frozen_out_of_a_distillations_wrapper_too(weights_dir: Path) -> None:
    model = DetectionModel("yolov8n.yaml", nc=2, verbose=False).train()
    model.task = "detect"  # type: ignore[assignment]
    wrapper = nn.Module()
    wrapper.student_model = model  # type: ignore[assignment]
    for content in (model, wrapper):
        loaded = load_teacher(save_net(content, weights_dir / "t.pt"))
        assert isinstance(loaded, DetectionModel)
        assert not any(m.training for m in loaded.modules())
        assert not any(p.requires_grad for p in loaded.parameters())


def test_another_task_is_refused(weights_dir: Path) -> None:
    model = DetectionModel("yolov8n.yaml", nc=2, verbose=False)
    path = save_net(model, weights_dir / "t.pt", task="segment")
    with pytest.raises(WeightsError, match=r"a detector as teacher, got .*t\.pt \(Detect, task segment\)$"):
        load_teacher(path)


# whom it suits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["a", "b"], {0: "a", 1: "b"}])
def test_equal_classes_suit_as_list_and_as_mapping(names: Any) -> None:
    check_classes(net(names), {0: "a", 1: "b"}, "t.pt")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({0: "a", 1: "b", 2: "c"}, r"a teacher of 3 classes, as the data, got t\.pt \(2\)$"),
        ({0: "b", 1: "a"}, r"are in the order of the data, class 0 'b', got t\.pt, class 0 'a'$"),
        ({0: "a", 1: "B"}, r"are named as in the data, class 1 'B', got t\.pt, class 1 'b'$"),
    ],
)
def test_other_classes(names: dict[int, str], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^distill_model: expected .*{message}"):
        check_teacher(net(), net(), names, "t.pt")


@pytest.mark.parametrize(
    ("student", "its", "suits"),
    [(None, None, True), (None, 3, True), (1, 1, True), (1, None, False), (None, 4, False)],
)
def test_channels_are_three_where_nothing_is_said(student: int | None, its: int | None, suits: bool) -> None:
    names = {0: "a", 1: "b"}
    if suits:
        return check_teacher(net(channels=its), net(channels=student), names, "t.pt")
    with pytest.raises(ConfigError, match=rf"teacher of {student or 3}-channel images, got t\.pt \({its or 3}\)$"):
        check_teacher(net(channels=its), net(channels=student), names, "t.pt")
    return None
