"""HubInject: the resized, normalised projection by hand; its share at the start."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_exports, assert_gradients_reach_all, assert_refuses_others, assert_round_trips, shake

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import HubInject, RowContext

C, HUB = 6, 8
SCALES = [0.25, 0.5, 1, 2, 4, 8]


def inputs(scale: Any, b: int = 2, h: int = 4, w: int = 8) -> Any:
    return [torch.randn(b, C, int(h * scale), int(w * scale)), torch.randn(b, HUB, h, w)]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("b", [1, 3])
def test_shape(scale: Any, b: int) -> None:
    x = inputs(scale, b)
    assert shake(HubInject(C, HUB, scale))(x).shape == x[0].shape


@pytest.mark.parametrize("scale", [3, 0, -1, 0.3, 16, "2"])
def test_errors(scale: Any) -> None:
    with pytest.raises(ConfigError, match=r"HubInject scale: expected 0\.25, 0\.5, 1, 2, 4 or 8"):
        HubInject(C, HUB, scale)


@pytest.mark.parametrize("gain", [-0.1, True, "1", None])
def test_gain_errors(gain: Any) -> None:
    with pytest.raises(ConfigError, match="HubInject gain: expected a number >= 0"):
        HubInject(C, HUB, 1, gain)


def test_arguments() -> None:
    assert_refuses_others(HubInject, given={"scale": 1}, c_level=C, c_hub=HUB)


def test_parse_errors() -> None:
    with pytest.raises(ConfigError, match="'from' with 2 inputs"):
        HubInject.parse(RowContext("HubInject", 8, []))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("scale", SCALES)
def test_limits_without_gain_it_is_the_identity(scale: Any, train: bool) -> None:
    x = inputs(scale)
    assert torch.equal(HubInject(C, HUB, scale, 0).train(train)(x), x[0])


@pytest.mark.parametrize("gain", [0.3, 1.0])
@pytest.mark.parametrize("scale", [0.5, 1, 4])
def test_gain_is_the_initial_deviation(scale: float, gain: float) -> None:
    level, hub = inputs(scale, 4)
    added = HubInject(C, HUB, scale, gain)([level, 100 * hub]) - level
    torch.testing.assert_close(added.mean((0, 2, 3)), torch.zeros(C), atol=1e-4, rtol=0)
    torch.testing.assert_close(added.std((0, 2, 3), unbiased=False), torch.full((C,), gain), atol=1e-2, rtol=0)
    assert HubInject(C, HUB, scale).bn.weight.tolist() == [1] * C


@pytest.mark.parametrize("scale", SCALES)
def test_value(scale: Any) -> None:
    """Position (i, j) of the level gets the projected hub cell it lies in, or the largest of the cells it covers."""
    block, (level, hub) = shake(HubInject(C, HUB, scale)).eval(), inputs(scale)
    bn, added = block.bn, torch.zeros_like(level)
    with torch.no_grad():
        for i in range(level.shape[2]):
            for j in range(level.shape[3]):
                if scale >= 1:
                    cell = hub[:, :, int(i // scale), int(j // scale)]
                else:
                    n = round(1 / scale)
                    cell = hub[:, :, n * i : n * i + n, n * j : n * j + n].amax((2, 3))
                added[:, :, i, j] = cell @ block.project.weight[:, :, 0, 0].T
    wanted = level + F.batch_norm(added, bn.running_mean, bn.running_var, bn.weight, bn.bias)
    torch.testing.assert_close(block([level, hub]), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 1, 2])
def test_gradients(scale: float) -> None:
    assert_gradients_reach_all(shake(HubInject(C, HUB, scale)), [inputs(scale)])
    block = HubInject(C, HUB, scale, 0)  # from no share at all the gain itself learns
    block(inputs(scale)).square().sum().backward()
    assert block.bn.weight.grad.abs().max() > 0
    block = shake(HubInject(C, HUB, scale)).eval().double()
    x = [t.double().requires_grad_() for t in inputs(scale, 1, 2, 2)]
    assert torch.autograd.gradcheck(lambda *t: block(list(t)), x)


@pytest.mark.parametrize("scale", SCALES)
def test_round_trips(scale: Any) -> None:
    assert_round_trips(shake(HubInject(C, HUB, scale)), HubInject(C, HUB, scale), [inputs(scale)])
    assert_exports(shake(HubInject(C, HUB, scale)), [inputs(scale)], [inputs(scale)])


def test_parse_rule() -> None:
    plan = HubInject.parse(RowContext("HubInject", [128, 64], [2]))
    assert (plan.args, plan.kwargs, plan.c2) == ([128, 64, 2], {"gain": 1.0}, 128)
    assert HubInject.parse(RowContext("HubInject", [128, 64], [])).args == [128, 64, 1]
    assert HubInject.parse(RowContext("HubInject", [128, 64], [0.5, 0])).kwargs == {"gain": 0}
