"""Neck block N and its reverse: what is joined with what, the attention behind it, the ablation."""

from typing import Any

import pytest
import torch
from block_checks import assert_exports, assert_gradients_reach_all, assert_refuses_others, assert_round_trips, shake
from torch import nn

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import CBAM, DualAttention, NeckBlock, RowContext
from ultra_dsmoe.nn.attention.kinds import ATTENTIONS

C1, OTHER, C2 = 16, 24, 32
SIZES = {"top_down": (3, 2), "bottom_up": (12, 8)}  # of a neighbour whose level is 6 x 4


def make(direction: Any, **kwargs: Any) -> NeckBlock:
    return NeckBlock(C1, OTHER, C2, direction=direction, **kwargs)


def inputs(direction: Any, b: int = 2) -> Any:
    return [torch.randn(b, C1, 6, 4), torch.randn(b, OTHER, *SIZES[direction])]


def awake(block: Any) -> Any:
    """Move everything, the attention's closing scales, which start at zero, included."""
    return shake(block, 0.3)


@pytest.mark.parametrize("direction", SIZES)
@pytest.mark.parametrize("b", [1, 3])
def test_shape(direction: Any, b: int) -> None:
    assert make(direction, n=2)(inputs(direction, b)).shape == (b, C2, 6, 4)


def test_arguments() -> None:
    assert_refuses_others(NeckBlock, "on", given={"direction": "top_down"}, c1=C1, c_other=OTHER, c2=C2, n=1)


def test_errors() -> None:
    with pytest.raises(ConfigError, match="NeckBlock direction: expected one of top_down, bottom_up, got up"):
        make("up")
    with pytest.raises(ConfigError, match="'from' with 2 inputs"):
        NeckBlock.parse(RowContext("NeckBlock", 8, [64]))


def test_value_of_what_is_joined() -> None:
    """With the refinement taken out: the level first, then the neighbour, repeated or convolved with stride 2."""
    for direction in SIZES:
        block = make(direction).eval()
        block.csp, block.attention = nn.Identity(), nn.Identity()
        level, neighbour = inputs(direction)
        if direction == "top_down":
            wanted = block.resize(neighbour).repeat_interleave(2, 2).repeat_interleave(2, 3)
            assert block.resize.conv.kernel_size == (1, 1)
        else:
            wanted = block.resize(neighbour)
            assert (block.resize.conv.kernel_size, block.resize.conv.stride) == ((3, 3), (2, 2))
        joined = block([level, neighbour])
        assert torch.equal(joined[:, :C1], level)
        assert torch.equal(joined[:, C1:], wanted)


@pytest.mark.parametrize("direction", SIZES)
def test_value_of_the_attention(direction: Any) -> None:
    block, x = awake(make(direction)).eval(), inputs(direction)
    with torch.no_grad():
        got = block(x)
        attention, block.attention = block.attention, nn.Identity()
        refined = block(x)
    assert isinstance(attention, DualAttention)
    torch.testing.assert_close(got, attention.weight(refined) * refined)
    assert (got - refined).abs().max() > 1e-3


@pytest.mark.parametrize("direction", SIZES)
def test_other_attentions(direction: Any) -> None:
    """CBAM weighs the same refined map; without an attention that map is the result."""
    x, blocks = inputs(direction), {kind: make(direction, attention=kind).eval() for kind in ATTENTIONS}
    common = {k: v for k, v in awake(blocks["da"]).state_dict().items() if not k.startswith("attention.")}
    for kind in ("cbam", "none"):
        assert not blocks[kind].load_state_dict(common, strict=False).unexpected_keys
    refined = blocks["none"](x)
    assert isinstance(blocks["cbam"].attention, CBAM)
    torch.testing.assert_close(blocks["cbam"](x), blocks["cbam"].attention.weight(refined) * refined)
    assert (blocks["cbam"](x) - refined).abs().max() > 1e-3
    assert_round_trips(shake(make(direction, attention="cbam")), make(direction, attention="cbam"), [inputs(direction)])
    with pytest.raises(ConfigError, match=r"NeckBlock attention: expected one of da, cbam, none .*did you mean 'cbam'"):
        make(direction, attention="cbma", on=False)
    with pytest.raises(ConfigError, match="NeckBlock attention: expected one of da, cbam, none, got 0"):
        make(direction, attention=0)


def test_refinement_is_a_csp_block_without_shortcuts() -> None:
    block = make("bottom_up", n=3)
    assert [type(m).__name__ for m in block.csp.m] == ["Bottleneck"] * 3
    assert not any(m.add for m in block.csp.m)
    assert block.csp.cv1.conv.in_channels == C1 + OTHER
    assert make("top_down").csp.cv1.conv.in_channels == C1 + C2


def test_limits_switched_off_it_hands_the_level_on() -> None:
    block, x = make("bottom_up", on=False), inputs("bottom_up")
    assert block(x) is x[0]
    assert block.attention is None
    assert not list(block.parameters())


@pytest.mark.parametrize("direction", SIZES)
def test_gradients(direction: Any) -> None:
    assert_gradients_reach_all(awake(make(direction)), [inputs(direction)])


@pytest.mark.parametrize("direction", SIZES)
def test_round_trips(direction: Any) -> None:
    assert_round_trips(awake(make(direction)), make(direction), [inputs(direction)])
    assert_exports(awake(make(direction)), [inputs(direction)], [inputs(direction)])


def test_parse_rule() -> None:
    plan = NeckBlock.parse(RowContext("NeckBlock", [64, 128], [256, "top_down"], n=4, width=0.5))
    assert (plan.args, plan.c2, plan.repeats) == ([64, 128, 128], 128, 1)
    assert plan.kwargs == {"n": 4, "direction": "top_down", "on": True, "attention": "da"}
    chosen = {"attention": "cbam"}
    for args, kind in (([256, "top_down"], "cbam"), ([256, "top_down", "none"], "none")):  # a row's own goes first
        plan = NeckBlock.parse(RowContext("NeckBlock", [64, 128], args, options=chosen))
        assert plan.kwargs["attention"] == kind
    assert NeckBlock.parse(RowContext("NeckBlock", [64, 128], [256, "bottom_up"])).kwargs["on"], "by default"
    one_tower = {"neck_down": False}
    up = NeckBlock.parse(RowContext("NeckBlock", [64, 128], [256, "bottom_up"], options=one_tower))
    assert (up.c2, up.kwargs["on"]) == (64, False)
    assert NeckBlock.parse(RowContext("NeckBlock", [64, 128], [256, "top_down"], options=one_tower)).kwargs["on"]
