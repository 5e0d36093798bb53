"""Detectors and classifiers for a second stage, made in no time: what the classifiers say is known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ultralytics.data.augment import classify_transforms
from ultralytics.nn.tasks import ClassificationModel, DetectionModel

SIZE = 32
CLASSIFIER = {"nc": 2, "backbone": [[-1, 1, "Conv", [32, 3, 8]]], "head": [[-1, 1, "Classify", ["nc"]]]}
DETECTOR = {
    "nc": 2,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], *([-1, 1, "Conv", [16, 3, 2]] for _ in range(3))],
    "head": [[[3], 1, "Detect", ["nc"]]],
}


def save(net: Any, task: str, names: Mapping[int, str], path: Path, size: int = SIZE) -> Path:
    """Write a checkpoint as the host does."""
    net.names, net.task = dict(names), task
    if task == "classify":
        net.transforms = classify_transforms(size)
    torch.save({"model": net.half(), "train_args": {"task": task, "imgsz": size}}, path)
    return path


@pytest.fixture
def save_classifier(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a stock classifier which gives every picture the same probabilities."""

    def make(probabilities: Mapping[str, float], name: str = "cls.pt") -> Path:
        net = ClassificationModel({**CLASSIFIER, "nc": len(probabilities)}, nc=len(probabilities), verbose=False)
        with torch.no_grad():
            net.model[-1].linear.weight.zero_()
            net.model[-1].linear.bias.copy_(torch.tensor(list(probabilities.values())).log())
        return save(net, "classify", dict(enumerate(probabilities)), tmp_path / name)

    return make


@pytest.fixture
def save_detector(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a stock detector which finds boxes of scores about .5 anywhere."""

    def make(names: Mapping[int, str], name: str = "det.pt") -> Path:
        net: Any = DetectionModel({**DETECTOR, "nc": len(names)}, nc=len(names), verbose=False)
        for branch in net.model[-1].cv3:
            torch.nn.init.zeros_(branch[-1].bias)
        return save(net, "detect", names, tmp_path / name, size=64)

    return make
