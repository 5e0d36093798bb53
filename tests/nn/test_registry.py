"""The registry and what a parse rule is told."""

import math
from dataclasses import FrozenInstanceError

import pytest
from torch import nn

import ultra_dsmoe.nn
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.registry import LAYERS, RowContext, RowPlan, register

BLOCKS = [
    "CBAM",
    "DSA",
    "GAD",
    "DualAttention",
    "DualAttentionDetect",
    "ExpertEnsemble",
    "ExpertGate",
    "FeatureAggregation",
    "HubFusion",
    "HubInject",
    "HyperbolicFusion",
    "SpaceBroadcast",
    "SparseMoE",
    "TextSemantics",
]


def test_what_a_row_and_a_plan_are_where_nothing_is_said():
    ctx, plan = RowContext("X", 8, []), RowPlan([], 8)
    assert (ctx.n, ctx.nc, ctx.width, ctx.reg_max, ctx.end2end, ctx.options) == (1, 80, 1.0, 16, False, {})
    assert (plan.kwargs, plan.repeats) == ({}, 1)
    for value in (ctx, plan):
        with pytest.raises(FrozenInstanceError):
            value.c1 = value.c2 = 3


@pytest.fixture
def no_trace():
    """Leave the registry as it was."""
    before = dict(LAYERS)
    yield
    LAYERS.clear()
    LAYERS.update(before)


@pytest.mark.parametrize("name", BLOCKS)
def test_importing_the_package_enrols_the_block(name):
    assert LAYERS[name] is getattr(ultra_dsmoe.nn, name)
    assert issubclass(LAYERS[name], nn.Module)


def test_register(no_trace):
    class Fresh(nn.Module):
        @staticmethod
        def parse(ctx):
            return RowPlan([], 1)

    assert register(Fresh) is Fresh
    assert LAYERS["Fresh"] is Fresh
    assert register(Fresh) is Fresh  # again is no error: a module may be reloaded


def test_register_errors(no_trace):
    class Ruleless(nn.Module):
        pass

    with pytest.raises(ConfigError, match=r"register\(Ruleless\): expected a class with a static parse"):
        register(Ruleless)
    taken = type("CBAM", (nn.Module,), {"parse": staticmethod(lambda ctx: RowPlan([], 1))})
    with pytest.raises(ConfigError, match=r"a name that is not taken, got ultra_dsmoe.nn.attention.cbam.CBAM"):
        register(taken)
    assert "Ruleless" not in LAYERS


@pytest.mark.parametrize(
    ("channels", "width", "limit", "wanted"),
    [(256, 0.5, math.inf, 128), (256, 0.25, 64, 16), (100, 0.33, math.inf, 40), (64, 1.0, 1024, 64)],
)
def test_scaled_rounds_up_to_eights(channels, width, limit, wanted):
    assert RowContext("X", 8, [], width=width, max_channels=limit).scaled(channels) == wanted


def test_inputs():
    assert RowContext("X", 8, []).inputs(1) == [8]
    assert RowContext("X", [8, 16], []).inputs(1, 2) == [8, 16]
    with pytest.raises(ConfigError, match="model YAML row X: expected 'from' with 2 inputs, got 1"):
        RowContext("X", 8, []).inputs(2)
    with pytest.raises(ConfigError, match="'from' with 1 to 2 inputs, got 3"):
        RowContext("X", [1, 2, 3], []).inputs(1, 2)
    with pytest.raises(ConfigError, match="tensor inputs"):
        RowContext("X", [8, [8, 16]], []).inputs(2)


def test_arg():
    row = RowContext("X", 8, [5])
    assert (row.arg(0, 1), row.arg(1, 7), row.arg(2)) == (5, 7, None)
