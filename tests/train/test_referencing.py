"""Trainer and references: data, net and weights suit each other, and the checkpoint knows how it was trained."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_sets import negative_set
from ultralytics.nn.tasks import DetectionModel

from ultra_dsmoe.data.reference.in_force import DATA_KEY
from ultra_dsmoe.data.reference.registration import MISMATCH_LIMIT
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.model.reference_row import has_reference
from ultra_dsmoe.train.referencing import usual_mismatch
from ultra_dsmoe.train.trainer import DSMoETrainer

QUICK = {"imgsz": 64, "batch": 4, "workers": 0, "plots": False, "device": "cpu", "exist_ok": True, "verbose": False}
Trainer = Callable[..., DSMoETrainer]


@pytest.fixture
def trainer(tiny_boards: Path, tmp_path: Path) -> Trainer:
    """Return a function that makes a trainer that has read a set whose references are negatives."""
    data = negative_set(tiny_boards, tmp_path / "set")

    def make(**overrides: Any) -> DSMoETrainer:
        arguments = {**QUICK, "data": str(data), "model": "yolov8n.yaml", "epochs": 1, "dsmoe_text": "hash"}
        return DSMoETrainer(overrides={**arguments, "project": str(tmp_path), "name": "run", **overrides})

    return make


def test_data_with_references_has_pairs(trainer: Trainer, tmp_path: Path) -> None:
    made = trainer(dsmoe_text=None)
    assert made.references is made.data[DATA_KEY]
    assert made.data["channels"] == 6
    assert made.references.spec.folder == tmp_path / "set" / "golden"


@pytest.mark.parametrize("cfg", ["yolov8n.yaml", "yolo11n.yaml", "dsmoe-n.yaml"])
def test_any_detector_gets_the_row(trainer: Trainer, cfg: str, caplog: pytest.LogCaptureFixture) -> None:
    text = "hash" if cfg.startswith("dsmoe") else None
    net = trainer(dsmoe_text=text).get_model(cfg, verbose=False)
    assert has_reference(net)
    assert net.yaml["channels"] == 6
    assert f"{cfg.replace('dsmoe-n', 'dsmoe-conv').replace('n.yaml', '.yaml')}"[:4] in caplog.text
    assert "Reference row in front" in caplog.text
    assert net(torch.zeros(1, 6, 64, 64))


def test_weights_arrive_in_full(trainer: Trainer) -> None:
    stock = DetectionModel("yolov8n.yaml", nc=6, verbose=False)
    net = trainer(dsmoe_text=None).get_model(stock.yaml, stock, verbose=False)
    mine = net.state_dict()
    for name, value in stock.state_dict().items():
        row = int(name.split(".")[1])
        assert torch.equal(mine[name.replace(f"model.{row}.", f"model.{row + 1}.", 1)], value), name


def test_a_net_with_the_row_keeps_it(trainer: Trainer, caplog: pytest.LogCaptureFixture) -> None:
    made = trainer(dsmoe_text=None)
    net = made.get_model("yolov8n.yaml", verbose=False)
    caplog.clear()
    again = made.get_model(net.yaml, net, verbose=False)
    assert len(again.model) == len(net.model)
    assert "in front" not in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))


def test_references_can_be_switched_off(trainer: Trainer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        made = trainer(dsmoe_reference=False, dsmoe_text=None)
    assert made.references is None
    assert made.data["channels"] == 3
    assert "is not used (dsmoe_reference=False)" in caplog.text
    assert not has_reference(made.get_model("yolov8n.yaml", verbose=False))


def test_a_net_with_the_row_needs_references(trainer: Trainer) -> None:
    net = trainer(dsmoe_text=None).get_model("yolov8n.yaml", verbose=False)
    with pytest.raises(ConfigError, match=r"reference: expected reference: in the data YAML, or dsmoe_reference="):
        trainer(dsmoe_reference=False, dsmoe_text=None).get_model(net.yaml, net, verbose=False)


def test_the_key_wins_and_the_yamls_options_hold(trainer: Trainer, tmp_path: Path) -> None:
    (tmp_path / "set" / "golden").rename(tmp_path / "other")
    made = trainer(dsmoe_reference={"folder": str(tmp_path / "other"), "align": "none", "drop": 0.5}, dsmoe_text=None)
    assert made.references is not None
    spec = made.references.spec
    assert (spec.folder, spec.strengths.drop, spec.strengths.noise) == (tmp_path / "other", 0.5, 0)


def test_the_net_remembers_its_references(trainer: Trainer, tmp_path: Path) -> None:
    made = trainer(dsmoe_text=None)
    made.model = made.get_model("yolov8n.yaml", verbose=False)
    made.build_dataset(made.data["train"], "train", 4)
    info = made.model.reference_info
    assert (info["channels"], info["form"]) == (3, made.model.model[0].form)
    assert info["spec"]["folder"] == str(tmp_path / "set" / "golden")
    assert 0 < info["limit"] < 0.9


class Scores:
    """References whose pairs match as their names say; no one has a reference."""

    def mismatch(self, image: str) -> float | None:
        return None if image == "none" else float(image)


def test_the_limit_is_above_what_is_usual(caplog: pytest.LogCaptureFixture) -> None:
    references: Any = Scores()
    scores = [str(i / 1000) for i in range(101)]
    limit = usual_mismatch(references, ["none", *scores])
    assert limit == pytest.approx(0.095 + (1 - 0.095) / 4)
    assert usual_mismatch(references, ["none"]) is None
    assert not [r for r in caplog.records if r.levelno == logging.WARNING]
    # Wrong pairs are said, and do not move the limit.
    assert usual_mismatch(references, [*["0.8"] * 900, *["0.1"] * 100]) == pytest.approx(0.1 + 0.9 / 4)
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warned) == 1
    assert "90% of the training's pairs have a mismatch above 0.4" in warned[0]
    assert usual_mismatch(references, ["0.8", "0.9"]) == MISMATCH_LIMIT


def test_pictures_of_batches_show_the_image(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two channels the host would make red and green."""
    from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator

    seen = []
    made = trainer(dsmoe_text=None)
    made.test_loader, made.loss_names = None, ()
    plots = [(DetectionTrainer, "plot_training_samples")]
    plots += [(DetectionValidator, name) for name in ("plot_val_samples", "plot_predictions")]
    for cls, name in plots:
        monkeypatch.setattr(cls, name, lambda self, batch, *args: seen.append(batch))
    validator = made.get_validator()
    batch = {"img": torch.arange(2 * 6 * 4).view(2, 6, 2, 2)}
    made.plot_training_samples(batch, 0)
    validator.plot_val_samples(batch, 0)
    validator.plot_predictions(batch, [], 0)
    for shown in seen:
        np.testing.assert_array_equal(shown["img"], batch["img"][:, :3])
    assert len(seen) == 3
    assert batch["img"].shape[1] == 6


def test_a_teacher_sees_what_its_student_sees(trainer: Trainer, save_teacher: Callable[..., Path]) -> None:
    teacher = save_teacher(DetectionModel("yolov8n.yaml", nc=6, verbose=False))
    for kd in (None, "host"):
        with pytest.raises(ConfigError, match=r"distill_model: expected a teacher of 6-channel images, got .*\(3\)"):
            trainer(distill_model=str(teacher), dsmoe_kd=kd, dsmoe_text=None).get_model("yolov8n.yaml", verbose=False)


@pytest.fixture
def save_teacher(trainer: Trainer, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a checkpoint of a net of the set's classes."""

    def save(net: Any) -> Path:
        net.names, net.task = trainer(dsmoe_text=None).data["names"], "detect"
        torch.save({"model": net.half(), "train_args": {"task": "detect"}}, tmp_path / "teacher.pt")
        return tmp_path / "teacher.pt"

    return save


def test_a_stock_net_stays_the_hosts_without_references(tiny_boards: Path, tmp_path: Path) -> None:
    arguments = {**QUICK, "data": str(tiny_boards), "epochs": 1, "model": "yolov8n.yaml", "project": str(tmp_path)}
    made = DSMoETrainer(overrides=arguments)
    assert made.references is None
    net = made.get_model("yolov8n.yaml", verbose=False)
    assert isinstance(net, DSMoEModel)
    assert net.reference_info is None
