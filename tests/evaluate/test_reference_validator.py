"""Validation with references: what it shows of pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionValidator


@pytest.mark.parametrize("channels", [1, 3])
def test_plots_show_images_alone(
    channels: int,
    save_reference_net: Callable[..., Path],
    pair_set: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two channels the host would make red and green."""
    seen: list[torch.Size] = []
    for name in ("plot_val_samples", "plot_predictions"):
        monkeypatch.setattr(DetectionValidator, name, lambda self, batch, *args: seen.append(batch["img"].shape))
    usual: dict[str, Any] = {"imgsz": 64, "device": "cpu", "verbose": False, "workers": 0, "project": str(tmp_path)}
    YOLO(save_reference_net(channels=channels)).val(data=str(pair_set(channels=channels)), plots=True, **usual)
    assert len(seen) == 2
    assert {shape[1] for shape in seen} == {channels}
