"""FGPEM: its equation by hand, its gates, the identity at the start, every form exported."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_exports, assert_gradients_reach_all, assert_round_trips, shake

from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.nn import FGPEM, RowContext
from ultra_dsmoe.nn.neck.fgpem import CHANNEL_GATES, ChannelGate, SpatialGate
from ultra_dsmoe.ops import patch_dct

C = 16
FORMS = [
    {},
    {"split": "patch", "patch": 8, "tau": 3, "features": "low", "channel_gate": "mean"},
    {"split": "learned", "channel_gate": "detail"},
    {"channel_gate": "none", "spatial_gate": False},
    {"patch": 2, "tau": 1},
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(8, 8), (9, 11)])
def test_shape(form: Any, size: Any) -> None:
    x = torch.randn(3, C, *size)
    assert shake(FGPEM(C, **form))(x).shape == x.shape


@pytest.mark.parametrize("form", FORMS)
def test_value(form: Any) -> None:
    block, x = shake(FGPEM(C, **form)).eval(), torch.randn(2, C, 8, 8)
    with torch.no_grad():
        low, high = block.bands(x)
        a = block.low(low)
        b = block.high(x if form.get("features") == "low" else high)
        if block.channel_gate:
            a = a * block.channel_gate(low, high)
        if block.spatial_gate:
            b = b * block.spatial_gate(high)
        y = F.conv2d(torch.cat([a, b], 1), block.fuse.conv.weight)
        bn = block.fuse.bn
        wanted = x + F.silu(F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps))
        torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["spectrum", "detail", "mean"])
def test_channel_gate_reads_what_it_says(kind: Any) -> None:
    gate, x = ChannelGate(C, kind, 4), torch.randn(2, C, 8, 8)
    low, high = FGPEM(C).bands(x)
    got = gate.statistics(low, high)[..., 0, 0]
    if kind == "spectrum":
        each = patch_dct.spectrum(x, patch_dct.depthwise(patch_dct.dct_kernels(4), C))
        rings = [each[..., patch_dct.frequencies(4) == f].mean(-1) for f in range(7)]
        wanted = torch.stack(rings, -1).flatten(1)
    else:
        mean = low.mean((2, 3))
        first = mean if kind == "mean" else (low - mean[..., None, None]).abs().mean((2, 3))
        wanted = torch.cat([first, high.abs().mean((2, 3))], 1)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    hidden = F.relu(F.linear(got, gate.mlp[0].weight[..., 0, 0], gate.mlp[0].bias))
    torch.testing.assert_close(
        gate(low, high)[..., 0, 0], F.linear(hidden, gate.mlp[2].weight[..., 0, 0], gate.mlp[2].bias).sigmoid()
    )


def test_the_mean_of_a_low_band_of_patches_is_that_of_the_map() -> None:
    """So `mean` is half a plain squeeze-and-excitation; `detail` and `spectrum` are not."""
    x = torch.randn(1, C, 8, 8)
    low, _ = FGPEM(C, split="patch").bands(x)
    torch.testing.assert_close(low.mean((2, 3)), x.mean((2, 3)), atol=1e-5, rtol=0)


def test_spatial_gate_sees_where_the_high_band_is() -> None:
    gate = SpatialGate()
    with torch.no_grad():
        gate.conv.weight.zero_()[0, :, 3, 3] = 1
        gate.conv.bias.zero_()
    high = torch.zeros(1, C, 5, 5)
    high[0, 1, 2, 3] = -8
    out = gate(high)[0, 0].detach()
    assert out[2, 3] == pytest.approx(torch.sigmoid(torch.tensor(8 / C + 8.0)).item())
    assert out[0, 0] == 0.5


@pytest.mark.parametrize("train", [True, False])
def test_limits_without_gain_it_is_the_identity(train: Any) -> None:
    x, block = torch.randn(2, C, 8, 8), FGPEM(C, 0)
    assert torch.equal(block.train(train)(x), x)
    assert block.fast_parameters == ("fuse.bn.weight",)
    block.train()(x).square().sum().backward()
    assert block.fuse.bn.weight.grad.abs().max() > 0


def test_gain_is_the_deviation_of_what_is_added() -> None:
    x = torch.randn(4, C, 16, 16)
    added = FGPEM(C, 0.2)(x) - x
    torch.testing.assert_close(added.std((0, 2, 3), unbiased=False), torch.full((C,), 0.2), atol=1e-2, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_and_round_trips(form: Any) -> None:
    x = [torch.randn(2, C, 8, 8)]
    assert_gradients_reach_all(shake(FGPEM(C, **form)), x)
    assert_round_trips(shake(FGPEM(C, **form)), FGPEM(C, **form), [torch.randn(2, C, 8, 8)])


@pytest.mark.parametrize("form", FORMS)
def test_exports(form: Any) -> None:
    assert_exports(shake(FGPEM(C, **form)), [torch.randn(1, C, 12, 10)], [torch.randn(1, C, 12, 10)])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"c": -1}, "FGPEM c: expected a positive integer"),
        ({"gain": -0.1}, "FGPEM gain: expected a number >= 0"),
        ({"gain": "1"}, "FGPEM gain: expected a number >= 0"),
        ({"features": "high"}, "FGPEM features: expected one of both, low"),
        ({"channel_gate": "se"}, "FGPEM channel_gate: expected one of spectrum, detail, mean, none"),
        ({"spatial_gate": 1}, "FGPEM spatial_gate: expected true or false"),
        ({"patch": 17}, "patch: expected a whole number from 2 to 16"),
    ],
)
def test_errors(wrong: Any, message: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        FGPEM(**{"c": C, **wrong})


def test_a_patch_larger_than_the_map_is_told() -> None:
    with pytest.raises(ShapeError, match=r"FGPEM patch: expected at most the shorter side of the map, 6 .*, got 8"):
        FGPEM(C, patch=8)(torch.zeros(1, C, 6, 9))


def test_parse_rule() -> None:
    options = {"split": "learned", "patch": 3, "tau": 1, "features": "low", "channel_gate": "none"}
    plan = FGPEM.parse(RowContext("FGPEM", 64, [0], n=2, options={**options, "spatial_gate": False}))
    assert (plan.args, plan.c2, plan.repeats) == ([64, 0], 64, 2)
    assert plan.kwargs == {**options, "spatial_gate": False}
    assert FGPEM.parse(RowContext("FGPEM", 64, [])).args == [64, None]
    assert set(CHANNEL_GATES) == {"spectrum", "detail", "mean", "none"}


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_is_finite_on_large_maps_and_near_on_usual_ones(form: Any) -> None:
    block, x = shake(FGPEM(C, **form)).eval(), torch.randn(1, C, 16, 16)
    half = copy.deepcopy(block).half()
    with torch.no_grad():
        torch.testing.assert_close(half(x.half()).float(), block(x), atol=2e-2, rtol=2e-2)
        assert torch.isfinite(half(1000 * x.half())).all()
