"""A second stage behind a detector for one call: stock, ours and exported; what is refused before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from second_stage_fixtures import DETECTOR, save
from ultralytics import YOLO

from ultra_dsmoe.errors import ConfigError, DSMoEError, WeightsError
from ultra_dsmoe.model.detector import DSMoEModel

NAMES = {0: "spur", 1: "short"}
PICTURE = np.random.default_rng(0).integers(0, 255, (80, 60, 3), np.uint8)
USUAL: dict[str, Any] = {"imgsz": 64, "conf": 1e-3, "device": "cpu", "verbose": False, "save": False}
SaveNet = Callable[..., Path]


def ours(path: Path) -> Path:
    content = {**DETECTOR, "head": [[-1, 1, "CBAM", []], [[4], 1, "Detect", ["nc"]]]}
    net = DSMoEModel(content, nc=2, verbose=False)
    for branch in net.model[-1].cv3:
        torch.nn.init.zeros_(branch[-1].bias)
    return save(net, "detect", NAMES, path, size=64)


@pytest.fixture(params=["stock", "ours", "exported"])
def detector(request: pytest.FixtureRequest, save_detector: SaveNet, tmp_path: Path) -> Path:
    if request.param == "ours":
        return ours(tmp_path / "ours.pt")
    path = save_detector(NAMES)
    if request.param == "stock":
        return path
    return Path(YOLO(path).export(format="torchscript", imgsz=64, device="cpu"))


@pytest.fixture
def boxes() -> Callable[..., torch.Tensor]:
    def predict(yolo: YOLO, **kwargs: Any) -> torch.Tensor:
        (result,) = list(yolo.predict(PICTURE, **{**USUAL, **kwargs}))
        return result.boxes.data.float()

    return predict


def left_behind(yolo: YOLO) -> list[Any]:
    return [call for calls in yolo.callbacks.values() for call in calls if isinstance(call, MethodType)]


@pytest.mark.parametrize("stream", [False, True])
def test_doubtful_boxes_go_for_one_call(
    stream: bool, detector: Path, save_classifier: SaveNet, boxes: Callable[..., torch.Tensor]
) -> None:
    yolo = YOLO(detector, task="detect")
    every = boxes(yolo)
    scores = every[:, 4]
    high = float(scores.median())
    assert scores.min() < high < scores.max()
    nothing = save_classifier({"background": 1.0, "spur": 1e-6, "short": 1e-6})
    left = boxes(yolo, stream=stream, dsmoe_verify=nothing, dsmoe_verify_band=(0, high))
    torch.testing.assert_close(left, every[scores >= high], rtol=0, atol=1e-4)
    spurs = save_classifier({"background": 1.0, "spur": 1e-6}, "spurs.pt")
    left = boxes(yolo, stream=stream, dsmoe_verify=spurs, dsmoe_verify_band=f"0,{high}")
    torch.testing.assert_close(left, every[(scores >= high) | (every[:, 5] == 1)], rtol=0, atol=1e-4)
    assert len(boxes(yolo, stream=stream, dsmoe_verify=nothing, dsmoe_verify_min=0.0)) == len(every)
    torch.testing.assert_close(boxes(yolo), every, rtol=0, atol=1e-4)
    assert not left_behind(yolo)


def test_each_is_validated_with_it(
    detector: Path, save_classifier: SaveNet, make_set: Callable[..., Path], tmp_path: Path
) -> None:
    data = make_set(names=list(NAMES.values())) / "data.yaml"
    for picture in data.parent.rglob("*.png"):
        cv2.imwrite(str(picture), PICTURE)  # the host leaves smaller ones out
    nothing = save_classifier({"background": 1.0, "spur": 1e-6, "short": 1e-6})
    call = {**USUAL, "data": data, "batch": 1, "workers": 0, "plots": False, "project": str(tmp_path), "name": "val"}
    YOLO(detector, task="detect").val(dsmoe_verify=nothing, dsmoe_verify_band=(0, 1), **call)
    counts = (tmp_path / "val" / "verify.csv").read_text().splitlines()[1].split(",")
    labelled, _, escapes, before, overkill = map(int, counts[1:])
    assert labelled == escapes == 1
    assert before > overkill == 0


def test_an_error_takes_the_second_stage_away_too(save_detector: SaveNet, save_classifier: SaveNet) -> None:
    yolo = YOLO(save_detector(NAMES))
    with pytest.raises(FileNotFoundError):
        yolo.predict("nowhere.png", dsmoe_verify=save_classifier({"spur": 1.0}), **USUAL)
    assert not left_behind(yolo)


def test_a_tracker_sees_what_is_left(save_detector: SaveNet, save_classifier: SaveNet) -> None:
    """Its callback may stand there already: ours goes before it."""
    yolo = YOLO(save_detector(NAMES))
    counts: list[int] = []
    yolo.add_callback("on_predict_postprocess_end", lambda predictor: counts.append(len(predictor.results[0].boxes)))
    nothing = save_classifier({"background": 1.0, "spur": 1e-6, "short": 1e-6})
    yolo.predict(PICTURE, dsmoe_verify=nothing, dsmoe_verify_band=(0, 1), **USUAL)
    assert counts == [0]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"dsmoe_verify": "nowhere.pt"}, "dsmoe_verify: expected an existing classifier"),
        ({"dsmoe_verify": "det.pt"}, "dsmoe_verify: expected a classifier .task=classify."),
        (
            {"dsmoe_verify": "other.pt"},
            r"dsmoe_verify: expected .*classes \(spur, short\), got one of background, rust",
        ),
        ({"dsmoe_verify": ""}, "dsmoe_verify: expected a classifier, such as cls.pt"),
        ({"dsmoe_verify": True}, "dsmoe_verify: expected a classifier, such as cls.pt, got True"),
        ({"dsmoe_verify_band": (0.1, 0.5)}, "dsmoe_verify_band: expected this key beside dsmoe_verify"),
        ({"dsmoe_verify_min": 0.5}, "dsmoe_verify_min: expected this key beside dsmoe_verify"),
        ({"dsmoe_verify": "other.pt", "dsmoe_verify_band": (0.5, 0.1)}, "dsmoe_verify_band: expected two scores"),
        ({"dsmoe_verify": "other.pt", "dsmoe_verify_min": 1.5}, "dsmoe_verify_min: expected a number from 0 to 1"),
    ],
)
@pytest.mark.parametrize("verb", ["predict", "val"])
def test_what_cannot_be_is_one_line_before_any_work(
    verb: str,
    kwargs: dict[str, Any],
    message: str,
    save_detector: SaveNet,
    save_classifier: SaveNet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    yolo = YOLO(save_detector(NAMES))
    save_classifier({"background": 0.5, "rust": 0.5}, "other.pt")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DSMoEError, match=f"^{message}") as caught:
        getattr(yolo, verb)(project=str(tmp_path / "runs"), **kwargs)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
    assert yolo.predictor is None


def test_other_tasks_and_files_without_names_are_one_line(save_classifier: SaveNet, tmp_path: Path) -> None:
    classifier = save_classifier({"spur": 0.5, "short": 0.5})
    with pytest.raises(ConfigError, match=r"^dsmoe_verify: expected a detector before it \(task=detect\), got task=cl"):
        YOLO(classifier).predict(PICTURE, dsmoe_verify=classifier, **USUAL)
    (tmp_path / "det.onnx").write_bytes(b"none")
    with pytest.raises(ConfigError, match=r"^dsmoe_verify: expected a detector as .pt, .onnx, .* got .*det.onnx"):
        YOLO(tmp_path / "det.onnx", task="detect").predict(PICTURE, dsmoe_verify=classifier, **USUAL)
    with pytest.raises(WeightsError, match="existing classifier"):
        YOLO("yolo11n.yaml").predict(PICTURE, dsmoe_verify="yolo11n-cls.pt", **USUAL)


def test_a_validator_that_is_none_of_a_detector_is_one_line(save_detector: SaveNet, save_classifier: SaveNet) -> None:
    classifier = save_classifier({"spur": 0.5, "short": 0.5})
    with pytest.raises(ConfigError, match=r"^validator: expected a class derived from .*DetectionValidator"):
        YOLO(save_detector(NAMES)).val(validator=object, data="nowhere.yaml", dsmoe_verify=classifier)
