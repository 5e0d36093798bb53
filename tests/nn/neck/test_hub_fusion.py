"""HubFusion: four levels to one map, against its parts."""

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_exports, assert_gradients_reach_all, assert_refuses_others, assert_round_trips, shake
from ultralytics.utils.torch_utils import fuse_conv_and_bn

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import HubFusion, RowContext

CH = [4, 6, 8, 10]


def levels(b: int = 1, h: int = 2, w: int = 3) -> Any:
    """X2..X5 of an image of 32h x 32w pixels."""
    return [torch.randn(b, c, h * s, w * s) for c, s in zip(CH, (8, 4, 2, 1), strict=True)]


@pytest.mark.parametrize("kind", ["gad", "avg"])
@pytest.mark.parametrize(("b", "h", "w"), [(1, 1, 1), (2, 3, 5)])
def test_shape(kind: str, b: int, h: int, w: int) -> None:
    assert HubFusion(CH, 12, kind).eval()(levels(b, h, w)).shape == (b, 12, 2 * h, 2 * w)


def test_arguments() -> None:
    assert_refuses_others(HubFusion, ch=CH, c2=12)


def test_errors() -> None:
    with pytest.raises(ConfigError, match="HubFusion downsampling: expected one of gad, avg, got max"):
        HubFusion(CH, 12, "max")
    with pytest.raises(ConfigError, match="HubFusion ch: expected channels of four levels"):
        HubFusion(CH[:3], 12)
    with pytest.raises(ConfigError, match="'from' with 4 inputs, got 3"):
        HubFusion.parse(RowContext("HubFusion", CH[:3], []))


def norm_silu(y: Any, bn: Any) -> Any:
    return F.silu(F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps))


def test_value_with_averages() -> None:
    block, (x2, x3, x4, x5) = shake(HubFusion(CH, 12, "avg")).eval(), levels(2)
    b, _, h, w = x4.shape
    down2 = x2.view(b, 4, h, 4, w, 4).mean((3, 5))
    down3 = x3.view(b, 6, h, 2, w, 2).mean((3, 5))
    up5 = x5.repeat_interleave(2, 2).repeat_interleave(2, 3)
    weight = block.fuse.conv.weight[:, :, 0, 0]
    wanted = norm_silu(torch.einsum("oi,bihw->bohw", weight, torch.cat([down2, down3, x4, up5], 1)), block.fuse.bn)
    torch.testing.assert_close(block([x2, x3, x4, x5]), wanted, atol=1e-5, rtol=1e-5)


def test_value_with_gad() -> None:
    block, (x2, x3, x4, x5) = shake(HubFusion(CH, 12)).eval(), levels()
    first, second = block.down2
    up5 = x5.repeat_interleave(2, 2).repeat_interleave(2, 3)
    joined = torch.cat([second(first(x2)), block.down3(x3), x4, up5], 1)
    assert joined.shape[1] == 2 + 3 + 8 + 10
    weight = block.fuse.conv.weight[:, :, 0, 0]
    wanted = norm_silu(torch.einsum("oi,bihw->bohw", weight, joined), block.fuse.bn)
    torch.testing.assert_close(block([x2, x3, x4, x5]), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gad", "avg"])
@pytest.mark.parametrize("closed", [False, True])
def test_fold_projects_the_coarse_level_before_it_is_enlarged(kind: str, closed: bool) -> None:
    block, x = shake(HubFusion(CH, 12, kind)).eval(), levels(2)
    wanted = block(x)
    if closed:  # as the host does before prediction and export
        block.fuse.conv = fuse_conv_and_bn(block.fuse.conv, block.fuse.bn)
        del block.fuse.bn
        block.fuse.forward = block.fuse.forward_fuse
    block.fold()
    torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-5)
    assert block.coarse.weight.shape[:2] == (12, CH[-1])
    state = {k: v.clone() for k, v in block.state_dict().items()}
    block.fold()
    assert all(torch.equal(v, state[k]) for k, v in block.state_dict().items())
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(twin(x), block(x))
    assert_exports(block, [levels()], [levels()])


def test_blocks_of_older_checkpoints_stay_as_they_are() -> None:
    block, x = shake(HubFusion(CH, 12)).eval(), levels()
    wanted = block(x)
    del block.c_x5
    block.fold()
    assert torch.equal(block(x), wanted)


def test_gradients() -> None:
    assert_gradients_reach_all(HubFusion(CH, 12), [levels(2)])


def test_round_trips() -> None:
    assert_round_trips(shake(HubFusion(CH, 12)), HubFusion(CH, 12), [levels(2)])
    for kind in ("gad", "avg"):
        assert_exports(shake(HubFusion(CH, 12, kind)), [levels()], [levels()])


def test_parse_rule() -> None:
    plan = HubFusion.parse(RowContext("HubFusion", CH, [], width=0.5))
    assert (plan.args, plan.kwargs, plan.c2) == ([CH, 128], {"downsampling": "gad"}, 128)
    assert HubFusion.parse(RowContext("HubFusion", CH, [64, "avg"])).kwargs == {"downsampling": "avg"}
