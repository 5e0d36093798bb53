"""The stock command on data with known-good pictures: train, break off, resume, validate, train on."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from reference_sets import negative_set
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.model.reference_row import has_reference


@pytest.fixture(scope="module")
def pairs(tiny_boards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data YAML of a set whose references are negatives, with the strengths of a usual training."""
    data = negative_set(tiny_boards, tmp_path_factory.mktemp("pairs") / "set")
    content = {**yaml.safe_load(data.read_text()), "reference": "golden"}
    data.write_text(yaml.safe_dump(content))
    return data


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory, save_net: Callable[..., Path], names: dict[int, str]) -> Path:
    """Return a checkpoint of a stock detector."""
    torch.manual_seed(0)
    net = DetectionModel("yolov8n.yaml", nc=len(names), verbose=False)
    return save_net(net, names, tmp_path_factory.mktemp("stock") / "stock.pt")


@pytest.fixture(scope="module")
def run(pairs: Path, stock: Path, quick: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of two epochs, with ``first.pt`` as it was after the first one."""
    project = tmp_path_factory.mktemp("runs")
    model = YOLO(stock)
    kept = project / "first.pt"
    model.add_callback("on_model_save", lambda t: None if kept.exists() else shutil.copy(t.last, kept))
    model.train(data=pairs, epochs=2, project=str(project), name="run", **{**quick, "plots": True})
    assert isinstance(model.model, DSMoEModel)
    return project / "run"


def test_a_stock_checkpoint_becomes_a_net_that_compares(run: Path) -> None:
    for name in ("best.pt", "last.pt"):
        net = YOLO(run / "weights" / name).model
        assert has_reference(net)
        assert net.yaml["channels"] == 6
        assert net.reference_info["channels"] == 3
        assert net.reference_info["spec"]["folder"].endswith("golden")
    assert (run / "train_batch0.jpg").exists()


def test_what_a_net_knows_of_its_references_is_there_from_the_first_epoch(run: Path) -> None:
    first = torch.load(run.parent / "first.pt", weights_only=False)
    last = YOLO(run / "weights" / "last.pt").model
    assert first["ema"].reference_info == last.reference_info


def test_the_arguments_say_the_data_alone(run: Path, pairs: Path) -> None:
    arguments = yaml.safe_load((run / "args.yaml").read_text())
    assert arguments["data"] == str(pairs)
    assert "dsmoe_reference" not in arguments


def test_a_run_goes_on(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "weights").mkdir(parents=True)
    shutil.copy(run.parent / "first.pt", folder / "weights" / "last.pt")
    for name in ("args.yaml", "results.csv"):
        shutil.copy(run / name, folder / name)
    ckpt = torch.load(folder / "weights" / "last.pt", weights_only=False)
    ckpt["train_args"] |= {"project": str(tmp_path), "save_dir": str(folder)}
    torch.save(ckpt, folder / "weights" / "last.pt")
    model = YOLO(folder / "weights" / "last.pt")
    model.train(resume=True, device="cpu")
    assert has_reference(model.model)
    assert [line.split(",")[0] for line in (folder / "results.csv").read_text().split()[1:]] == ["1", "2"]


def test_without_references_the_stock_net_stays(
    pairs: Path, stock: Path, quick: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = YOLO(stock)
    with caplog.at_level(logging.INFO):
        model.train(data=pairs, epochs=1, project=str(tmp_path), name="run", val=False, dsmoe_reference="none", **quick)
    assert type(model.model) is DetectionModel
    assert "in front" not in caplog.text
    assert yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())["dsmoe_reference"] is False
