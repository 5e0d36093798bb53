"""One gray transform at training, validation and prediction, in exported files and in the runtime without torch."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

from ultra_dsmoe.edge.lint import lint
from ultra_dsmoe.export.parity import compare, load_images
from ultra_dsmoe.export.runners import exported_runner
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.runtime.detector import Runtime

SIZE, GAMMA = 64, 1.5
ALL_BOXES = {"conf": 1e-3, "max_det": 20}
Passes = list[tuple[bool, torch.Tensor, torch.Tensor]]


@pytest.fixture(scope="module")
def arguments(quick: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return {**quick, "dsmoe_text": "hash", "epochs": 1, "project": str(tmp_path_factory.mktemp("runs"))}


@pytest.fixture(scope="module")
def passes() -> Iterator[Passes]:
    """Record, whenever a net of ours runs: whether it trains, what it is given, what its first row gets."""
    seen: Passes = []
    ours, hosts, given = DSMoEModel.predict, DetectionModel.predict, []

    def outer(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        given.append(x)
        return ours(self, x, *args, **kwargs)

    def inner(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self, DSMoEModel) and hasattr(self, "stride"):
            seen.append((self.training, given[-1].clone(), x.clone()))
        return hosts(self, x, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DSMoEModel, "predict", outer)
        patch.setattr(DetectionModel, "predict", inner)
        yield seen


@pytest.fixture(scope="module")
def gray(arguments: dict[str, object], tiny_boards: Path, passes: Passes) -> Path:
    """Return the checkpoint of one epoch with the transform."""
    YOLO("dsmoe-n.yaml").train(data=tiny_boards, name="gray", dsmoe_gamma=GAMMA, **arguments)
    assert {training for training, _, _ in passes} == {True, False}
    assert_transformed(passes, GAMMA)
    return Path(str(arguments["project"])) / "gray" / "weights" / "last.pt"


def assert_transformed(passes: Passes, gamma: float) -> None:
    """Check what was recorded, and forget it."""
    pictures = [(a, b) for _, a, b in passes if a.amax() > 0]
    assert pictures
    assert all(torch.equal(b, a if gamma == 1 else a**gamma) for a, b in pictures)
    passes.clear()


def test_every_verb_uses_the_checkpoints(
    gray: Path, passes: Passes, arguments: dict[str, object], tiny_boards: Path, boards: list[Path]
) -> None:
    call = {"imgsz": SIZE, "verbose": False, "project": arguments["project"], "device": "cpu"}
    model = YOLO(gray)
    assert model.model.gamma == GAMMA
    model.predict(boards[0], **call)
    assert_transformed(passes, GAMMA)
    model.val(data=tiny_boards, plots=False, workers=0, **call)
    assert_transformed(passes, GAMMA)


def test_another_exponent_holds_for_one_call_with_a_warning(
    gray: Path, passes: Passes, arguments: dict[str, object], boards: list[Path]
) -> None:
    call = {"imgsz": SIZE, "verbose": False, "project": arguments["project"], "device": "cpu"}
    model = YOLO(gray)
    said: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ultralytics.utils.LOGGER.warning", said.append)
        for gamma in (1.0, GAMMA):
            model.predict(boards[0], dsmoe_gamma=gamma, **call)
            assert_transformed(passes, gamma)
    assert said == ["dsmoe_gamma=1: the net has the gray transform of exponent 1.5"]
    assert model.model.gamma == GAMMA


def test_training_goes_on_with_it(gray: Path, passes: Passes, arguments: dict[str, object], tiny_boards: Path) -> None:
    passes.clear()
    model = YOLO(gray)
    model.train(data=tiny_boards, name="fine", **arguments)
    assert_transformed(passes, GAMMA)
    assert model.model.gamma == GAMMA


@pytest.fixture(scope="module")
def seeing(gray: Path, boards: list[Path], make_routed: Callable[..., Path]) -> Path:
    """Return a checkpoint with the transform whose predictions differ from image to image."""
    return make_routed(YOLO(gray).model, load_images(boards, SIZE), gray.with_name("seeing.pt"))


def in_full_precision(openvino: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the host's OpenVINO compute in fp32: CPUs with bf16 take that, and a gate near a tie then chooses others."""

    class Core(openvino.Core):  # type: ignore[name-defined]  # of a fixture
        def __init__(self) -> None:
            super().__init__()
            self.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setattr(openvino, "Core", Core)


@pytest.mark.parametrize("fmt", ["onnx", "torchscript", "openvino"])
def test_exported_files_have_it_whoever_runs_them(
    fmt: str, seeing: Path, boards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fmt == "openvino":
        in_full_precision(pytest.importorskip("openvino"), monkeypatch)
    net, images = YOLO(seeing).model, load_images(boards, SIZE)
    file = Path(YOLO(seeing).export(format=fmt, imgsz=SIZE, dsmoe_parity=False))
    report = compare(net, file, images)
    assert report.agrees(), str(report)
    assert report.experts_equal is True
    net.set_gamma(1)
    assert not compare(net, file, images).agrees(), "the transform does not show in these predictions"
    runtime = None
    if fmt == "onnx":
        assert not [f for f in lint(file) if f.is_fault]
        runtime = Runtime(file, threads=1)
    call = {"imgsz": SIZE, "rect": False, "verbose": False, "project": str(tmp_path), "device": "cpu", **ALL_BOXES}
    checkpoint, exported = YOLO(seeing), YOLO(file, task="detect")
    for board in boards[:4]:
        picture = cv2.imread(str(board))
        expected = checkpoint.predict(picture, **call)[0].boxes
        stock = exported.predict(picture, **call)[0].boxes
        found = [(stock.conf, stock.xyxy)]
        if runtime is not None:
            detections = runtime.predict(picture, **ALL_BOXES)
            found.append(([d.score for d in detections], [d.box_xyxy_px for d in detections]))
        for scores, boxes in found:
            assert len(expected) == len(scores) > 0
            np.testing.assert_allclose(scores, expected.conf, atol=1e-4)
            np.testing.assert_allclose(boxes, expected.xyxy, atol=0.01)


def test_an_exponent_of_one_is_no_node(seeing: Path, boards: list[Path], tmp_path: Path) -> None:
    """And without it the same file comes out as from a net that never had one."""
    outputs = []
    for name, change in (("one", lambda net: net.set_gamma(1)), ("never", lambda net: net.options.pop("gamma"))):
        net = YOLO(seeing).model
        change(net)
        path = tmp_path / f"{name}.pt"
        torch.save({"model": net, "train_args": {"task": "detect", "imgsz": SIZE}}, path)
        file = YOLO(path).export(format="onnx", imgsz=SIZE, dsmoe_parity=False)
        outputs.append(exported_runner(file)(load_images(boards[:1], SIZE))[0])
    assert np.array_equal(*outputs)


# the papers' recipe ---------------------------------------------------------------------------------------------------


def test_the_recipe_on_the_command_line(
    run_yolo: Callable[..., subprocess.CompletedProcess[str]], tiny_boards: Path, tmp_path: Path
) -> None:
    small = ("model=dsmoe-n.yaml", f"imgsz={SIZE}", "epochs=1", "batch=4", "workers=0", "device=cpu", "plots=False")
    place = (f"data={tiny_boards}", "dsmoe_text=hash", f"project={tmp_path}", "name=run")
    done = run_yolo("train", "cfg=train/dsmoe.yaml", *place, *small)
    assert "Adam(" in done.stdout + done.stderr
    settings = yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())
    paper = {"cos_lr": True, "weight_decay": 0.001, "mixup": 0.5, "mosaic": 0.0, "dsmoe_gamma": GAMMA, "seed": 42}
    assert {key: settings[key] for key in paper} == paper
    assert YOLO(tmp_path / "run" / "weights" / "best.pt").model.gamma == GAMMA
