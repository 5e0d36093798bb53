"""A small detector in which every stage matters, and its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.attention.dual_attention import DualAttention
from ultra_dsmoe.nn.neck.hub_inject import HubInject
from ultra_dsmoe.nn.neck.space_broadcast import SpaceBroadcast

CLASSES = 6  # as in the generated board set
PIXELS = 64


def awaken(net: nn.Module) -> nn.Module:
    """Give the parts that start at zero, or as the identity, weights as a training would."""
    torch.manual_seed(1)
    for m in net.modules():
        zero_start: list[Any] = []
        if isinstance(m, HubInject):
            zero_start = [m.project]
        elif isinstance(m, SpaceBroadcast):
            zero_start = [m.offset_pw, m.mask_image, m.mask_text]
        elif isinstance(m, DualAttention):
            zero_start = [m.channel_out.bn, m.spatial_out.bn]
        for layer in zero_start:
            nn.init.normal_(layer.weight, std=0.5)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.5)
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_var, 0.2, 1)
    return net


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_boards: Path) -> Path:
    """Return the path of a checkpoint in a run folder, as the host's trainer leaves it."""
    torch.manual_seed(0)  # the same net whichever test asks for it first
    net = awaken(DSMoEModel("dsmoe-n.yaml", nc=CLASSES, verbose=False)).eval()
    path = tmp_path_factory.mktemp("run") / "weights" / "best.pt"
    path.parent.mkdir()
    trained = {"imgsz": PIXELS, "data": str(tiny_boards), "task": "detect", "model": "dsmoe-n.yaml"}
    torch.save({"model": net, "ema": None, "epoch": -1, "train_args": trained}, path)
    return path


@pytest.fixture
def net(checkpoint: Path) -> DSMoEModel:
    """Return the checkpoint's network, as loaded."""
    from ultra_dsmoe.evaluate.evaluation import load_network

    torch.manual_seed(0)
    return load_network(checkpoint)[0]


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(3))
