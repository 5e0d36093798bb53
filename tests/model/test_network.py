"""What all our networks share: a checkpoint's format, executed work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ultralytics import YOLO

from ultra_dsmoe.errors import WeightsError
from ultra_dsmoe.model import network
from ultra_dsmoe.model.detector import DSMoEModel


def test_a_checkpoint_of_a_newer_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = DSMoEModel("dsmoe-n.yaml", nc=6, verbose=False)
    net.checkpoint_format = network.CHECKPOINT_FORMAT + 1
    torch.save({"model": net, "train_args": {}}, tmp_path / "new.pt")
    with pytest.raises(WeightsError, match=r"checkpoint: expected format 1 or older \(upgrade ultra-dsmoe\), got 2"):
        YOLO(tmp_path / "new.pt")
    monkeypatch.setattr(network, "CHECKPOINT_FORMAT", 2)  # the newer version itself reads it
    assert isinstance(YOLO(tmp_path / "new.pt").model, DSMoEModel)


def test_executed_work_leaves_the_mode_alone_and_grows_with_the_image() -> None:
    net = DSMoEModel("dsmoe-n.yaml", nc=6, verbose=False).train()
    small, large = net.gflops(64), net.gflops([128, 64])
    assert net.training
    assert 1.7 < large / small < 2  # the text side is the same
    assert net.info(verbose=False) is None
    assert "of 32 experts chosen" in net.size_note()
