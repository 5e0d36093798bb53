"""Allocate: both forms by hand at every scale, the identity at the start, errors."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_exports, assert_gradients_reach_all, assert_round_trips, shake

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import Allocate, RowContext

C, HUB = 8, 12
SCALES = [0.25, 0.5, 1, 2, 4]
FORMS = [None, 0, 0.2]


def inputs(scale: Any, b: Any = 2, h: Any = 4, w: Any = 8) -> Any:
    return [torch.randn(b, C, int(h * scale), int(w * scale)), torch.randn(b, HUB, h, w)]


def resized(x: Any, scale: Any) -> Any:
    if scale > 1:
        return F.interpolate(x, scale_factor=float(scale), mode="bilinear")
    return F.avg_pool2d(x, round(1 / scale))


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("gain", FORMS)
@pytest.mark.parametrize("scale", SCALES)
def test_value(scale: Any, gain: Any, gated: Any) -> None:
    """Resizing first, as written; the block projects first."""
    block, (level, hub) = shake(Allocate(C, HUB, scale, gain, gated=gated)).eval(), inputs(scale)
    with torch.no_grad():
        g = resized(hub, scale)
        e = block.inject(g)
        a = block.gate(g).sigmoid() if gated else None
        if gain is None:
            p = block.level(level)
            wanted = block.refine((p if a is None else p * a) + e)
        else:
            wanted = (level if a is None else 2 * a * level) + e
        torch.testing.assert_close(block([level, hub]), wanted, atol=1e-5, rtol=1e-5)
    assert wanted.shape == level.shape


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("scale", SCALES)
def test_limits_without_gain_it_is_the_level(scale: Any, train: Any) -> None:
    x = inputs(scale)
    assert torch.equal(Allocate(C, HUB, scale, 0).train(train)(x), x[0])


def test_what_starts_at_zero_learns_in_the_first_step_and_fast() -> None:
    block = Allocate(C, HUB, 2, 0)
    block(inputs(2)).square().sum().backward()
    assert set(block.fast_parameters) == {"inject.bn.weight", "gate.weight", "gate.bias"}
    assert block.inject.bn.weight.grad.abs().max() > 0
    assert block.gate.weight.grad.abs().max() > 0
    assert set(Allocate(C, HUB, 2, 0.2).fast_parameters) == {"gate.weight", "gate.bias"}
    assert Allocate(C, HUB, 2).fast_parameters == ()


def test_gain_is_the_initial_deviation() -> None:
    level, hub = inputs(1, 8)
    added = Allocate(C, HUB, 1, 0.3)([level, 50 * hub]) - level
    torch.testing.assert_close(added.std((0, 2, 3), unbiased=False), torch.full((C,), 0.3), atol=1e-2, rtol=0)


@pytest.mark.parametrize("gain", FORMS)
@pytest.mark.parametrize("scale", SCALES)
def test_gradients_round_trips_and_export(scale: Any, gain: Any) -> None:
    def block() -> Any:
        return shake(Allocate(C, HUB, scale, gain))

    assert_gradients_reach_all(block(), [inputs(scale)])
    assert_round_trips(block(), Allocate(C, HUB, scale, gain), [inputs(scale)])
    assert_exports(block(), [inputs(scale, 1)], [inputs(scale, 1)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, HUB, 1), "Allocate c_level: expected a positive integer"),
        ((C, HUB, 3), r"Allocate scale: expected 0\.25, 0\.5, 1, 2 or 4, got 3"),
        ((C, HUB, True), "Allocate scale: expected"),
        ((C, HUB, 1, -1), "Allocate gain: expected a number >= 0"),
    ],
)
def test_errors(arguments: Any, message: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        Allocate(*arguments)
    with pytest.raises(ConfigError, match="Allocate gated: expected true or false"):
        Allocate(C, HUB, 1, gated="yes")


def test_parse_rule() -> None:
    plan = Allocate.parse(RowContext("Allocate", [64, 32], [2, 0], options={"allocation_gate": False}))
    assert (plan.args, plan.kwargs, plan.c2) == ([64, 32, 2, 0], {"gated": False}, 64)
    assert Allocate.parse(RowContext("Allocate", [64, 32], [])).args == [64, 32, 1, None]


def test_half_precision_is_finite_on_large_maps_and_near_on_usual_ones() -> None:
    block, x = shake(Allocate(C, HUB, 2, 0.2)).eval(), inputs(2, 1)
    half = copy.deepcopy(block).half()
    with torch.no_grad():
        torch.testing.assert_close(half([t.half() for t in x]).float(), block(x), atol=2e-2, rtol=2e-2)
        assert torch.isfinite(half([1000 * t.half() for t in x])).all()
