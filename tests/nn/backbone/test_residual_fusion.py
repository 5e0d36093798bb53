"""Weighted residual fusion path: equation 1 by hand, its ablation, its strides."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_exports, assert_gradients_reach_all, assert_refuses_others, assert_round_trips, shake

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import ResidualFusion, RowContext

CH = [4, 6, 8]


def inputs(ch: Any = CH, b: int = 2, h: int = 3, w: int = 5) -> Any:
    finer = len(ch) - 1
    return [torch.randn(b, c, h * 2 ** (finer - i), w * 2 ** (finer - i)) for i, c in enumerate(ch)]


@pytest.mark.parametrize("ch", [[8], [6, 8], CH])
@pytest.mark.parametrize("b", [1, 3])
def test_shape(ch: Any, b: int) -> None:
    x = inputs(ch, b)
    assert ResidualFusion(ch)(x).shape == x[-1].shape
    if len(ch) == 1:
        assert ResidualFusion(ch)(x[0]).shape == x[0].shape  # a row with a single input hands on no list


def test_arguments() -> None:
    assert_refuses_others(ResidualFusion, "enabled", ch=[4, 8])


def test_errors() -> None:
    with pytest.raises(ConfigError, match="ResidualFusion ch: expected the channels of at least one level"):
        ResidualFusion([])


def test_equation_1_by_hand() -> None:
    """Kernels that copy: each level is sampled at every 4th, 2nd or 1st cell, and shares are 1/8, 2/8, 5/8."""
    block = ResidualFusion([2, 2, 2]).eval()
    with torch.no_grad():
        block.logits.copy_(torch.tensor([0, math.log(2), math.log(5)]))
        paths: Any = block.paths
        for resize, project in paths:
            resize.weight.zero_()[:, :, 1, 1] = 1
            project.weight.copy_(torch.eye(2)[..., None, None])
    finest, finer, level = x = inputs([2, 2, 2], 1)
    z = (finest[..., ::4, ::4] + 2 * finer[..., ::2, ::2] + 5 * level) / 8 / math.sqrt(1 + block.bn.eps)
    torch.testing.assert_close(block(x), z / (1 + torch.exp(-z)))


def test_value() -> None:
    block, x = shake(ResidualFusion(CH)).eval(), inputs()
    weight = torch.exp(block.logits) / torch.exp(block.logits).sum()
    z = torch.zeros_like(x[-1])
    for i, (resize, project) in enumerate(block.paths):
        y = F.conv2d(x[i], resize.weight, stride=[4, 2, 1][i], padding=1, groups=CH[i])
        z = z + weight[i] * torch.einsum("oi,bihw->bohw", project.weight[:, :, 0, 0], y)
    bn = block.bn
    z = F.batch_norm(z, bn.running_mean, bn.running_var, bn.weight, bn.bias)
    torch.testing.assert_close(block(x), z * torch.sigmoid(z), atol=1e-5, rtol=1e-5)


def test_limits_levels_start_with_equal_shares() -> None:
    block = ResidualFusion(CH)
    assert block.logits.softmax(0).tolist() == pytest.approx([1 / 3] * 3)
    assert block.fast_parameters == ("logits",), "the trainer gives scalars a faster pace by these names"


def test_limits_switched_off_it_hands_the_level_on() -> None:
    block, x = ResidualFusion(CH, enabled=False), inputs()
    assert block(x) is x[-1]
    assert not list(block.parameters())


def test_gradients() -> None:
    assert_gradients_reach_all(shake(ResidualFusion(CH)), [inputs()])
    block = shake(ResidualFusion([2, 3])).eval().double()
    x = [t.double().requires_grad_() for t in inputs([2, 3], 1, 2, 2)]
    assert torch.autograd.gradcheck(lambda *t: block(list(t)), x)


def test_round_trips() -> None:
    assert_round_trips(shake(ResidualFusion(CH)), ResidualFusion(CH), [inputs()])
    assert_exports(shake(ResidualFusion(CH)), [inputs()], [inputs()])


def test_parse_rule() -> None:
    plan = ResidualFusion.parse(RowContext("ResidualFusion", [16, 32, 64], []))
    assert (plan.args, plan.kwargs, plan.c2) == ([[16, 32, 64]], {"enabled": True}, 64)
    off = ResidualFusion.parse(RowContext("ResidualFusion", 64, [], options={"residual_path": False}))
    assert (off.args, off.kwargs, off.c2) == ([[64]], {"enabled": False}, 64)
