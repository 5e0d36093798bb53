"""Distillation that cannot be: one line that says why, and nothing written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import DEFAULT_CFG_DICT

from ultra_dsmoe.errors import ConfigError, DSMoEError, WeightsError

if "distill_model" not in DEFAULT_CFG_DICT:
    pytest.skip("this host cannot distil", allow_module_level=True)

Run = Callable[..., subprocess.CompletedProcess[str]]


def classes(case: str, names: dict[int, str]) -> dict[int, str]:
    values = list(names.values())
    if case == "order":
        values = values[::-1]
    elif case == "names":
        values[2] = "hole"
    return dict(enumerate(values))


@pytest.mark.parametrize("student", ["yolov8n.yaml", "dsmoe-n.yaml"])
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("order", "classes are in the order of the data, class 0 'missing_hole', got .*class 0 'spurious_copper'"),
        ("names", "classes are named as in the data, class 2 'open_circuit', got .*class 2 'hole'"),
        ("count", r"a teacher of 6 classes, as the data, got .*\(2\)"),
        ("task", "a detector as teacher, got .*task segment"),
        ("level", "dsmoe_kd levels: expected strides that both nets have .8, 16, 32., got 4"),
        ("strides", "a teacher of the student's strides .8, 16, 32., got 4, 8, 16, 32"),
    ],
)
def test_teachers_that_do_not_suit(
    case: str, message: str, student: str, save_net: Callable[..., Path], names: dict[int, str], tiny_boards: Path,
    teacher: Path, quick: dict[str, Any], tmp_path: Path,
) -> None:  # fmt: skip
    from ultralytics.nn.tasks import SegmentationModel

    kd = {"level": {"levels": [4]}, "strides": "self"}.get(case, "attention")
    path = teacher if case == "strides" else tmp_path / "t.pt"
    if case == "task":
        save_net(SegmentationModel("yolov8n-seg.yaml", nc=6, verbose=False), names, path, "segment")
    elif case == "count":
        save_net(DetectionModel("yolov8n.yaml", nc=2, verbose=False), {0: "a", 1: "b"}, path)
    elif case != "strides":
        save_net(DetectionModel("yolov8n.yaml", nc=6, verbose=False), classes(case, names), path)
    with pytest.raises(DSMoEError, match=message) as e:
        YOLO(student).train(
            data=tiny_boards, epochs=1, project=str(tmp_path / "p"), distill_model=str(path), dsmoe_kd=kd, **quick
        )
    assert "\n" not in str(e.value)
    assert not list((tmp_path / "p").rglob("*")), "something was written"


@pytest.mark.parametrize("student", ["yolov8n.yaml", "smodel-n.yaml"])
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("order", "classes are in the order of the data, class 0 'missing_hole', got .*class 0 'spurious_copper'"),
        ("names", "classes are named as in the data, class 2 'open_circuit', got .*class 2 'hole'"),
    ],
)
def test_the_hosts_distiller_asked_for_by_name_wants_the_datas_classes_too(
    case: str, message: str, student: str, save_net: Callable[..., Path], names: dict[int, str], tiny_boards: Path,
    quick: dict[str, Any], tmp_path: Path,
) -> None:  # fmt: skip
    net = DetectionModel("yolov8n.yaml", nc=6, verbose=False)
    path = save_net(net, classes(case, names), tmp_path / "t.pt")
    call: dict[str, Any] = {**quick, "data": tiny_boards, "epochs": 1, "project": str(tmp_path / "p")}
    with pytest.raises(ConfigError, match=f"^distill_model: expected a teacher whose {message}") as e:
        YOLO(student).train(distill_model=str(path), dsmoe_kd="host", **call)
    assert "\n" not in str(e.value)
    assert not list((tmp_path / "p").rglob("*")), "something was written"


def test_a_stock_call_stays_the_hosts(
    save_net: Callable[..., Path], names: dict[int, str], tiny_boards: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    """The host does not look at classes; without a key of ours neither do we."""
    net = DetectionModel("yolov8n.yaml", nc=6, verbose=False)
    path = save_net(net, classes("order", names), tmp_path / "t.pt")

    def stop(_trainer: Any) -> None:
        raise KeyboardInterrupt

    yolo = YOLO("yolov8n.yaml")
    yolo.add_callback("on_train_start", stop)
    with pytest.raises(KeyboardInterrupt):
        yolo.train(data=tiny_boards, epochs=1, project=str(tmp_path / "p"), distill_model=str(path), **quick)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            {"dsmoe_kd": "attention"},
            ConfigError,
            "dsmoe_kd: expected this key beside distill_model=",
        ),
        ({"dsmoe_kd": "self"}, ConfigError, "beside distill_model=teacher.pt or distill_model=auto, got dsmoe_kd=self"),
        (
            {"dsmoe_kd": {"method": "self", "cls_temperature": 0}, "distill_model": "auto"},
            ConfigError,
            "dsmoe_kd cls_temperature: expected a number above 0, at most 100, got 0",
        ),
        ({"distill_model": "auto"}, ConfigError, "distill_model: expected auto beside dsmoe_kd, such as dsmoe_kd=self"),
        ({"dsmoe_kd": "self", "distill_model": "atuo"}, WeightsError, r"checkpoint \(.pt\) \(did you mean 'auto'\?\)"),
        ({"dsmoe_kd": "attentoin", "distill_model": "T"}, ConfigError, "did you mean 'attention'"),
        ({"dsmoe_kd": {"temprature": 3}, "distill_model": "T"}, ConfigError, "did you mean 'temperature'"),
        ({"dsmoe_kd": "no.yaml", "distill_model": "T"}, ConfigError, "dsmoe_kd: expected an existing YAML file"),
        (
            {"dsmoe_kd": "mimic", "distill_model": "no.pt"},
            WeightsError,
            "distill_model: expected an existing checkpoint",
        ),
        ({"dsmoe_kd": "mimic", "distill_model": "T", "trainer": DetectionTrainer}, ConfigError, "without another"),
        ({"dsmoe_kd": "host", "distill_model": "T", "trainer": DetectionTrainer}, ConfigError, "without another"),
    ],
)
def test_bad_calls(
    call: dict[str, Any], error: type, message: str, tiny_boards: Path, teacher: Path, quick: dict[str, Any],
    tmp_path: Path,
) -> None:  # fmt: skip
    call = {k: str(teacher) if v == "T" else v for k, v in call.items()}
    with pytest.raises(error, match=message) as e:
        YOLO("yolov8n.yaml").train(data=tiny_boards, epochs=1, project=str(tmp_path / "p"), **call, **quick)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "p").exists()


def test_a_missing_teacher_of_ours_is_refused_too(tiny_boards: Path, quick: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"distill_model: expected an existing checkpoint, got no\.pt"):
        YOLO("dsmoe-n.yaml").train(data=tiny_boards, distill_model="no.pt", project=str(tmp_path / "p"), **quick)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("verb", ["val", "predict", "export"])
def test_other_verbs_refuse_the_key(verb: str) -> None:
    for name in ("yolov8n.yaml", "dsmoe-n.yaml"):
        with pytest.raises(ConfigError, match="dsmoe_kd: expected this key with train only"):
            getattr(YOLO(name), verb)(dsmoe_kd="mimic")


def test_students_of_other_tasks_are_refused(teacher: Path, tiny_boards: Path, quick: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"dsmoe_kd: expected a YOLO detector as student, got yolov8n-seg\.yaml"):
        YOLO("yolov8n-seg.yaml").train(data=tiny_boards, distill_model=str(teacher), dsmoe_kd="attention", **quick)


def test_hosts_without_a_distiller_say_so(monkeypatch: pytest.MonkeyPatch, teacher: Path) -> None:
    monkeypatch.delitem(DEFAULT_CFG_DICT, "distill_model")
    with pytest.raises(ConfigError, match=r"dsmoe_kd: expected Ultralytics 8\.4\.80 or newer"):
        YOLO("yolov8n.yaml").train(distill_model=str(teacher), dsmoe_kd="attention")


def test_the_command_line_ends_in_one_line(run_yolo: Run, tiny_boards: Path, tmp_path: Path) -> None:
    done = run_yolo("train", "model=yolov8n.yaml", f"data={tiny_boards}", "dsmoe_kd=mimik", check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: dsmoe_kd: expected attention, mimic, self,")
    assert not (tmp_path / "runs").exists()
