"""MFA: alignment and fusion by hand at every reference, folding, errors."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_exports, assert_gradients_reach_all, assert_round_trips, shake

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import MFA, RowContext

CH, C2 = [4, 6, 8, 10], 12


def levels(b: Any = 2, h: Any = 4, w: Any = 6, ch: Any = CH) -> Any:
    n = len(ch)
    return [torch.randn(b, c, h * 2 ** (n - 1 - i), w * 2 ** (n - 1 - i)) for i, c in enumerate(ch)]


@pytest.mark.parametrize("reference", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (4, 6), (5, 3)])
def test_shape_is_the_references(reference: Any, size: Any) -> None:
    x = levels(2, *size)
    assert shake(MFA(CH, C2, reference))(x).shape == (2, C2, *x[reference].shape[2:])


@pytest.mark.parametrize("reference", [0, 1, 2, 3])
def test_value(reference: Any) -> None:
    block, x = shake(MFA(CH, C2, reference)).eval(), levels()
    h, w = x[reference].shape[2:]
    aligned = [
        F.adaptive_avg_pool2d(t, (h, w))
        if i <= reference
        else F.interpolate(t, (h, w), mode="bilinear", align_corners=False)
        for i, t in enumerate(x)
    ]
    bn = block.fuse.bn
    y = F.conv2d(torch.cat(aligned, 1), block.fuse.conv.weight)
    wanted = F.silu(F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps))
    torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reference", [0, 2, 3])
def test_folded_it_computes_the_same(reference: Any) -> None:
    block, x = shake(MFA(CH, C2, reference)).eval(), levels()
    with torch.no_grad():
        wanted = block(x)
        block.fold()
        assert len(block.coarser) == 3 - reference
        torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-5)
        block.fold()
        torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-5)


def test_gradients_round_trips_and_export() -> None:
    assert_gradients_reach_all(shake(MFA(CH, C2)), [levels()])
    assert_round_trips(shake(MFA(CH, C2)), MFA(CH, C2), [levels()])
    assert_exports(shake(MFA(CH, C2)), [levels(1)], [levels(1)])
    folded = shake(MFA(CH, C2, 1)).eval()
    folded.fold()
    assert_exports(folded, [levels(1)], [levels(1)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([4], C2), "MFA ch: expected channels of two levels or more"),
        ((4, C2), "MFA ch: expected channels of two levels or more"),
        (([4, 0], C2), r"MFA ch\[1\]: expected a positive integer"),
        ((CH, 0), "MFA c2: expected a positive integer"),
        ((CH, C2, 4), "MFA reference: expected a level from 0 to 3, got 4"),
        ((CH, C2, True), "MFA reference: expected a level from 0 to 3"),
    ],
)
def test_errors(arguments: Any, message: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        MFA(*arguments)


def test_parse_rule() -> None:
    plan = MFA.parse(RowContext("MFA", [32, 64, 128, 256], [256, 1], width=0.25))
    assert (plan.args, plan.c2) == ([[32, 64, 128, 256], 64, 1], 64)
    assert MFA.parse(RowContext("MFA", [32, 64, 128], [256])).args == [[32, 64, 128], 256, 2]
    with pytest.raises(ConfigError, match="'from' with 2 to 5 inputs"):
        MFA.parse(RowContext("MFA", 32, [256]))


def test_half_precision_is_finite_on_large_maps_and_near_on_usual_ones() -> None:
    block, x = shake(MFA(CH, C2)).eval(), levels(1)
    half = copy.deepcopy(block).half()
    with torch.no_grad():
        torch.testing.assert_close(half([t.half() for t in x]).float(), block(x), atol=2e-2, rtol=2e-2)
        assert torch.isfinite(half([1000 * t.half() for t in x])).all()
