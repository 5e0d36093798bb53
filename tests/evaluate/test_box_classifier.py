"""A classifier is opened whatever made it, refused in one line where it is none, and asked crops of any size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from second_stage_fixtures import save
from ultralytics import YOLO

from ultra_dsmoe.errors import DSMoEError
from ultra_dsmoe.evaluate.box_classifier import BoxClassifier
from ultra_dsmoe.model.classifier import PairModel

SaveClassifier = Callable[..., Path]
PAIR = {
    "nc": 2,
    "dsmoe": {"text_mode": "always", "fusion": "mean"},
    "backbone": [[-1, 1, "SplitText", []], [0, 1, "Pick", [0]], [-1, 1, "Conv", [16, 3, 8]]],
    "head": [
        [2, 1, "ImageProjection", [16]],
        [0, 1, "TextAdapter", [1, 16]],
        [0, 1, "TextAdapter", [2, 16]],
        [[2, 3, 4, 5], 1, "CMAF", []],
        [[6, 3, 4, 5], 1, "PairClassify", ["nc"]],
    ],
}
SAYS = {"background": 0.25, "spur": 0.625, "short": 0.125}


@pytest.fixture
def crops() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (h, w, 3), np.uint8) for h, w in ((40, 20), (1, 1), (9, 33), (64, 64), (5, 4))]


def test_a_checkpoint_says_the_same_of_all(save_classifier: SaveClassifier, crops: list[np.ndarray]) -> None:
    classifier = BoxClassifier(save_classifier(SAYS))
    assert classifier.names == dict(enumerate(SAYS))
    for _ in range(2):
        np.testing.assert_allclose(classifier.probabilities(crops, "cpu"), [list(SAYS.values())] * 5, atol=1e-3)


@pytest.mark.parametrize("batch", [1, 2])
def test_an_exported_file_takes_its_own_number_of_crops(
    batch: int, save_classifier: SaveClassifier, crops: list[np.ndarray]
) -> None:
    file = YOLO(save_classifier(SAYS)).export(format="torchscript", imgsz=32, batch=batch, device="cpu")
    classifier = BoxClassifier(Path(file))
    assert classifier.names == dict(enumerate(SAYS))
    np.testing.assert_allclose(classifier.probabilities(crops, "cpu"), [list(SAYS.values())] * 5, atol=1e-3)


def test_it_saves_nothing_and_says_nothing_within_a_prediction_of_the_command_line(
    save_classifier: SaveClassifier,
    crops: list[np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """There the host's own `predict` returns nothing and saves what it saw."""
    from ultralytics.engine import model

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model, "ARGV", ["yolo", "predict"])
    classifier = BoxClassifier(save_classifier(SAYS))
    capsys.readouterr()
    assert classifier.probabilities(crops, "cpu").shape == (5, 3)
    assert "crop" not in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["cls.pt"]


def missing(tmp_path: Path, classifier: Path, detector: Path) -> Path:
    return tmp_path / "yolo11n-cls.pt"  # which the host would download


def a_detector(tmp_path: Path, classifier: Path, detector: Path) -> Path:
    return detector


def an_exported_detector(tmp_path: Path, classifier: Path, detector: Path) -> Path:
    return Path(YOLO(detector).export(format="torchscript", imgsz=64, device="cpu"))


def damaged(tmp_path: Path, classifier: Path, detector: Path) -> Path:
    classifier.write_bytes(classifier.read_bytes()[:1000])
    return classifier


def another_file(tmp_path: Path, classifier: Path, detector: Path) -> Path:
    (tmp_path / "cls.yaml").write_text("nc: 2\n")
    return tmp_path / "cls.yaml"


def without_metadata(tmp_path: Path, classifier: Path, detector: Path) -> Path:
    (tmp_path / "cls.onnx").write_bytes(b"none")
    return tmp_path / "cls.onnx"


def that_needs_texts(tmp_path: Path, classifier: Path, detector: Path) -> Path:
    return save(PairModel(PAIR, nc=2, verbose=False), "classify", {0: "spur", 1: "short"}, tmp_path / "pair.pt")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, "an existing classifier.*does not exist"),
        (a_detector, r"a classifier \(task=classify\), got .*det.pt \(task=detect\)"),
        (an_exported_detector, r"a classifier \(task=classify\), got .*\(task=detect\)"),
        (damaged, "a classifier that can be read"),
        (another_file, "a classifier as .pt, .onnx"),
        (without_metadata, "a classifier as .pt, .onnx"),
        (that_needs_texts, r"a classifier that needs the picture alone .*got .*pair.pt \(text_mode: always\)"),
    ],
)
def test_what_is_no_classifier_is_one_line(
    make: Callable[[Path, Path, Path], Path],
    message: str,
    save_classifier: SaveClassifier,
    save_detector: Callable[..., Path],
    tmp_path: Path,
) -> None:
    path = make(tmp_path, save_classifier(SAYS), save_detector({0: "spur"}))
    with pytest.raises(DSMoEError, match=f"^dsmoe_verify: expected {message}") as caught:
        BoxClassifier(path)
    assert "\n" not in str(caught.value)


def test_a_classifier_of_ours_that_texts_only_teach(tmp_path: Path, crops: list[np.ndarray]) -> None:
    content = {**PAIR, "dsmoe": {"text_mode": "train"}}
    path = save(PairModel(content, nc=2, verbose=False), "classify", {0: "spur", 1: "short"}, tmp_path / "pair.pt")
    found = BoxClassifier(path).probabilities(crops, "cpu")
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-3)
    assert np.ptp(found[:, 0]) > 0
