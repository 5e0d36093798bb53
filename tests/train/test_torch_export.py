"""The net in torch's own graph tools: `torch.export` holds exactly what it computes, `torch.compile` sees one graph."""

from __future__ import annotations

import pytest
import torch
from ultralytics import YOLO

from ultra_dsmoe.model.detector import DSMoEModel

KEPT = [list(range(0, 16, 2))]


@pytest.fixture(scope="module")
def net() -> DSMoEModel:
    torch.manual_seed(0)
    net = DSMoEModel("dsmoe-n.yaml", nc=5, verbose=False).eval()
    net(torch.zeros(1, 3, 64, 64))  # the host's head keeps the anchors of a size
    return net


@pytest.mark.parametrize("mode", ["gather", "static", "dense"])
@torch.no_grad()
def test_torch_export_is_exact(net: DSMoEModel, mode: str) -> None:
    net.set_moe_mode(mode, KEPT if mode == "static" else None)
    program = torch.export.export(net, (torch.zeros(1, 3, 64, 64),))
    images = torch.rand(3, 1, 3, 64, 64)
    for image in images:
        assert torch.equal(program.module()(image)[0], net(image)[0])
    assert not torch.equal(net(images[0])[0], net(images[1])[0])


def test_the_stride_is_a_number_in_old_checkpoints_too(net: DSMoEModel) -> None:
    state = net.__getstate__() if hasattr(net, "__getstate__") else dict(vars(net))
    state = {k: v for k, v in state.items() if k != "largest_stride"}
    old = DSMoEModel.__new__(DSMoEModel)
    old.__setstate__(state)
    assert old.largest_stride == YOLO("dsmoe-n.yaml").model.largest_stride == 32
