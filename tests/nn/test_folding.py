"""Splitting of convolutions, and fused nets: the same output, other parameters, the original untouched."""

import copy

import pytest
import torch
from block_checks import shake
from torch import nn
from ultralytics.nn.modules import Conv

from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.folding import LinearFoldMixin, closed, plain, split_inputs


@pytest.mark.parametrize(("k", "bias"), [(1, True), (3, True), (3, False)])
def test_split_inputs_adds_up(k: int, bias: bool) -> None:
    conv, x = nn.Conv2d(7, 5, k, padding=k // 2, bias=bias), torch.randn(2, 7, 6, 4)
    first, second = split_inputs(conv, 3)
    torch.testing.assert_close(first(x[:, :3]) + second(x[:, 3:]), conv(x), atol=1e-5, rtol=1e-5)
    assert (first.bias is not None, second.bias) == (bias, None)
    assert not any(p.requires_grad for part in (first, second) for p in part.parameters())
    assert split_inputs(conv.half(), 3)[1].weight.dtype == torch.float16


def test_closed_has_the_normalisation_in_it() -> None:
    block, x = shake(Conv(4, 6, 3)).eval(), torch.randn(1, 4, 5, 5)
    wanted = block(x)
    torch.testing.assert_close(block.act(closed(block)(x)), wanted, atol=1e-5, rtol=1e-5)


def test_plain_refuses_convolutions_that_were_replaced() -> None:
    class QuantConv2d(nn.Conv2d):
        pass

    assert plain(nn.Conv2d(1, 1, 1), nn.Conv2d(2, 2, 3))
    assert not plain(nn.Conv2d(1, 1, 1), QuantConv2d(1, 1, 1))
    assert not plain(None)


@pytest.mark.parametrize("name", ["dsmoe-n", "yolov8n-dsmoe", "smodel-n"])
def test_fused_nets_compute_what_they_did(name: str) -> None:
    torch.manual_seed(0)
    net = shake(DSMoEModel(f"{name}.yaml", nc=3, verbose=False), 0.02).eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):  # some start at zero and would hide what lies before them
            nn.init.uniform_(m.weight, 0.5, 1.5)
    images, names = torch.rand(1, 3, 128, 128), list(net.state_dict())
    with torch.no_grad():
        wanted = net(images)[0]
        fused = copy.deepcopy(net).fuse(verbose=False)
        assert any(isinstance(m, LinearFoldMixin) for m in fused.modules())
        torch.testing.assert_close(fused(images)[0], wanted, atol=1e-3, rtol=1e-4)  # px
        again = copy.deepcopy(fused).fuse(verbose=False)
        assert torch.equal(again(images)[0], fused(images)[0])
    assert list(net.state_dict()) == names
