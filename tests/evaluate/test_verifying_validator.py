"""Validation with a second stage: escapes and overkill by hand, crops out of the image files, what is left behind."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import LOGGER

from ultra_dsmoe.evaluate.box_classifier import BoxClassifier

NAMES = {0: "scratch", 1: "dent"}
H, W = 120, 200
LABELLED = {"a": [(0, 20, 30, 60, 50), (1, 100, 40, 120, 100)], "good": [], "b": [(0, 10, 10, 50, 40)]}
FOUND = {  # kind, score, corners in pixels of the image
    "a": [(0, 0.9, 20, 30, 60, 50), (1, 0.3, 100, 40, 120, 100), (0, 0.3, 150, 10, 180, 40)],
    "good": [(1, 0.6, 5, 5, 30, 30), (1, 0.4, 50, 50, 90, 90), (0, 0.05, 100, 60, 140, 90)],
    "b": [(0, 0.27, 10, 10, 50, 40)],
}


class Finder(DetectionValidator):
    """Finds what it is told, where it lies in the net's input."""

    def preprocess(self, batch: dict[str, Any]) -> dict[str, Any]:
        self.batch = super().preprocess(batch)
        return self.batch

    def postprocess(self, preds: Any) -> list[dict[str, torch.Tensor]]:
        found = []
        for file, ((gain_y, gain_x), (left, top)) in zip(self.batch["im_file"], self.batch["ratio_pad"], strict=True):
            rows = torch.tensor(FOUND[Path(file).stem])
            boxes = rows[:, 2:] * torch.tensor([gain_x, gain_y] * 2) + torch.tensor([left, top] * 2)
            shown = rows[:, 1] >= self.args.conf
            parts = {"bboxes": boxes, "conf": rows[:, 1], "cls": rows[:, 0], "extra": rows[:, :0]}
            found.append({name: part[shown] for name, part in parts.items()})
        return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for place in ("images", "labels"):
        (tmp_path / "set" / place).mkdir(parents=True)
    for name, boxes in LABELLED.items():
        cv2.imwrite(str(tmp_path / f"set/images/{name}.png"), rng.integers(0, 255, (H, W, 3), np.uint8))
        lines = [
            f"{kind} {(x0 + x1) / 2 / W} {(y0 + y1) / 2 / H} {(x1 - x0) / W} {(y1 - y0) / H}"
            for kind, x0, y0, x1, y1 in boxes
        ]
        (tmp_path / f"set/labels/{name}.txt").write_text("\n".join(lines))
    content = {"path": str(tmp_path / "set"), "train": "images", "val": "images", "names": NAMES}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "data.yaml"


@pytest.fixture
def validate(
    data: Path, save_detector: Callable[..., Path], tmp_path: Path
) -> Callable[..., tuple[Any, list[list[int]]]]:
    """Return a function that validates a detector of the boxes above: metrics and the numbers of verify.csv."""

    def run(classifier: Path, **kwargs: Any) -> tuple[Any, list[list[int]]]:
        usual = {"data": data, "imgsz": 64, "batch": 2, "workers": 0, "plots": False, "exist_ok": True}
        metrics = YOLO(save_detector(NAMES)).val(
            Finder, project=str(tmp_path), name="val", dsmoe_verify=classifier, **{**usual, **kwargs}
        )
        with (tmp_path / "val" / "verify.csv").open() as f:
            rows = list(csv.reader(f))[1:]
        assert [row[0] for row in rows] == ["all", *NAMES.values()]
        return metrics, [[int(value) for value in row[1:]] for row in rows]

    return run


def test_a_classifier_that_sees_nothing_costs_escapes_and_saves_overkill(
    validate: Any,
    save_classifier: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it cannot touch: the sure boxes of a.png and good.png, and one below the band."""
    monkeypatch.setattr(LOGGER, "propagate", True)
    with caplog.at_level(logging.INFO):
        metrics, counts = validate(save_classifier({"background": 0.9, "scratch": 0.05, "dent": 0.05}))
    # labelled, escapes before and after, overkill before and after
    assert counts == [[3, 0, 2, 3, 1], [2, 0, 1, 1, 0], [1, 0, 1, 2, 1]]
    assert metrics.box.nc == 2
    assert metrics.box.map50 < 0.5
    assert "Second look: 4 of 4 doubtful boxes dropped (scores from 0.1 to 0.5), counted at conf=0.25:" in caplog.text
    assert "Escapes" in caplog.text


def test_a_classifier_that_agrees_changes_nothing(validate: Any, save_classifier: Callable[..., Path]) -> None:
    metrics, counts = validate(save_classifier({"scratch": 0.5, "dent": 0.5}))
    assert counts == [[3, 0, 0, 3, 3], [2, 0, 0, 1, 1], [1, 0, 0, 2, 2]]
    assert metrics.box.map50 > 0.5


def test_they_are_counted_at_the_operating_confidence(validate: Any, save_classifier: Callable[..., Path]) -> None:
    nothing = save_classifier({"background": 0.9, "scratch": 0.1})
    assert validate(nothing, conf=0.35)[1] == [
        [3, 2, 2, 2, 2],
        [2, 1, 1, 0, 0],
        [1, 1, 1, 2, 2],
    ]  # dents are unknown to it
    assert validate(nothing, conf=0.01, dsmoe_verify_band=(0.01, 0.2))[1][0] == [3, 0, 0, 4, 3]


def test_crops_come_out_of_the_image_files(
    validate: Any, save_classifier: Callable[..., Path], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops: list[np.ndarray] = []
    ask = BoxClassifier.probabilities

    def spy(self: BoxClassifier, shown: list[np.ndarray], device: Any) -> np.ndarray:
        crops.extend(shown)
        return ask(self, shown, device)

    monkeypatch.setattr(BoxClassifier, "probabilities", spy)
    validate(save_classifier({"dent": 1.0, "hole": 1e-6}), batch=1)
    picture = {name: cv2.imread(str(data.parent / f"set/images/{name}.png")) for name in LABELLED}
    expected = [picture["a"][31:109, 91:129], picture["good"][44:96, 44:96]]  # 15 % of the longer side around them
    assert len(crops) == len(expected)
    for got, wanted in zip(crops, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
