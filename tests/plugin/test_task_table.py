"""The table of tasks: what is ours by it, and one more task by one entry."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import yaml
from torch import nn
from ultralytics import YOLO
from ultralytics.models.yolo.classify import ClassificationTrainer
from ultralytics.nn.tasks import ClassificationModel, DetectionModel, SegmentationModel

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.evaluate.pair_predictor import PairPredictor
from ultra_dsmoe.evaluate.pair_validator import PairValidator
from ultra_dsmoe.evaluate.reference_predictor import ReferencePredictor
from ultra_dsmoe.evaluate.reference_validator import ReferenceValidator
from ultra_dsmoe.model.classifier import PairModel
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.plugin import verbs
from ultra_dsmoe.plugin.keys import KEYS
from ultra_dsmoe.plugin.task_table import TASKS, Task, task_of
from ultra_dsmoe.train.pair_trainer import PairTrainer
from ultra_dsmoe.train.trainer import DSMoETrainer


class OurClassifier(ClassificationModel):
    """Stands in for a classifier of ours."""

    options: dict[str, Any] = {}  # noqa: RUF012


class OurTrainer(ClassificationTrainer):
    """Stands in for its trainer."""


@pytest.fixture
def classify(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let a classifier move in; return a model YAML that names a layer of ours."""
    module = ModuleType("own_classifier")
    module.Model, module.Trainer = OurClassifier, OurTrainer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_classifier", module)
    monkeypatch.setitem(TASKS, "classify", Task("own_classifier.Model", "own_classifier.Trainer"))
    rows = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "DSA", []]]
    return {"nc": 3, "backbone": rows, "head": [[-1, 1, "Classify", ["nc"]]]}


def test_every_entry_names_classes_that_there_are() -> None:
    assert TASKS["detect"].classes() == {
        "model": DSMoEModel,
        "trainer": DSMoETrainer,
        "validator": ReferenceValidator,
        "predictor": ReferencePredictor,
    }
    assert TASKS["classify"].classes() == {
        "model": PairModel,
        "trainer": PairTrainer,
        "validator": PairValidator,
        "predictor": PairPredictor,
    }
    for task in TASKS.values():
        assert set(task.keys or ()) <= set(KEYS)


def test_task_of_a_net() -> None:
    assert task_of(DSMoEModel("smodel-n.yaml", nc=2, verbose=False)) == "detect"
    for other in (DetectionModel("yolov8n.yaml", verbose=False), nn.Identity(), None):
        assert task_of(other) is None


def test_a_table_costs_no_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "segment", Task("no_such_module.Model", "no_such_module.Trainer"))
    assert task_of(nn.Identity()) is None


def test_a_classifier_moves_in_by_one_entry(classify: dict[str, Any], tmp_path: Any) -> None:
    from ultralytics.utils import YAML

    path = tmp_path / "own-cls.yaml"
    YAML.save(path, classify)
    model = YOLO(str(path), task="classify")
    assert type(model.model) is OurClassifier
    assert task_of(model.model) == "classify"
    assert verbs.our_net(model) is model.model
    ours = model.task_map["classify"]
    assert (ours["model"], ours["trainer"]) == (OurClassifier, OurTrainer)
    stock = YOLO("yolo11n.yaml").task_map
    assert ours["validator"] is stock["classify"]["validator"]
    assert model.task_map["detect"] == stock["detect"]


def test_stock_models_stay_the_hosts_beside_it(classify: dict[str, Any]) -> None:
    for name, task in (("yolo11n-cls.yaml", "classify"), ("yolo11n.yaml", "detect")):
        stock = YOLO(name)
        assert type(stock.model).__module__ == "ultralytics.nn.tasks"
        assert stock.task_map[task]["trainer"].__module__.startswith("ultralytics.")
    ours = YOLO("smodel-n.yaml")
    assert ours.task_map["detect"]["trainer"] is DSMoETrainer
    assert ours.task_map["classify"]["trainer"] is ClassificationTrainer


@pytest.mark.parametrize("task", ["segment", "pose", "obb", "detect"])
def test_a_classifiers_yaml_names_its_command(task: str) -> None:
    command = "'yolo classify train model=yolov8n-pfa-cls.yaml'"
    message = f"^task: expected classify, as in {command}, since the model YAML is that of a classifier of ours, got"
    with pytest.raises(ConfigError, match=rf"{message} {task}$"):
        YOLO("yolov8n-pfa-cls.yaml", task=task)


@pytest.mark.parametrize("task", ["segment", "classify"])
def test_a_detectors_yaml_names_its_command(task: str) -> None:
    command = "'yolo detect train model=dsmoe-n.yaml'"
    message = f"^task: expected detect, as in {command}, since the model YAML is that of a detector of ours, got"
    with pytest.raises(ConfigError, match=rf"{message} {task}$"):
        YOLO("dsmoe-n.yaml", task=task)


def test_a_head_of_another_task_above_layers_of_ours_is_the_hosts(tmp_path: Any) -> None:
    rows = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "CBAM", []]]
    content = {"nc": 3, "backbone": rows, "head": [[[1], 1, "Segment", ["nc", 8, 16]]]}
    (tmp_path / "own-seg.yaml").write_text(yaml.safe_dump(content))
    assert type(YOLO(tmp_path / "own-seg.yaml").model) is SegmentationModel
