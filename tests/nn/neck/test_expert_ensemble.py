"""ExpertEnsemble: both streams by hand."""

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_exports, assert_gradients_reach_all, assert_refuses_others, assert_round_trips, shake
from ultralytics.utils.torch_utils import fuse_conv_and_bn

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import ExpertEnsemble, RowContext

C, D, N = 8, 10, 5


def block_of() -> ExpertEnsemble:
    return ExpertEnsemble(C, D, N)


def inputs(b: int = 2, h: int = 5, w: int = 6) -> Any:
    gate = torch.rand(b, N) * (torch.rand(b, N) > 0.4)
    gate[:, 0] += 0.1
    return [torch.randn(b, C, h, w), torch.randn(3, D), gate / gate.sum(1, keepdim=True)]


@pytest.mark.parametrize(("b", "h", "w"), [(1, 1, 1), (2, 7, 5), (3, 4, 9)])
def test_shape(b: int, h: int, w: int) -> None:
    x = inputs(b, h, w)
    assert block_of().eval()(x).shape == (b, C, h, w)
    if b > 1:
        assert block_of()(x).shape == (b, C, h, w)


def test_arguments() -> None:
    assert_refuses_others(ExpertEnsemble, c=8, text_width=16, experts=4)


def test_errors() -> None:
    with pytest.raises(ConfigError, match="'from' with 3 inputs"):
        ExpertEnsemble.parse(RowContext("ExpertEnsemble", [8, 8, 256, 32], []))


def cbs(conv: Any, x: Any, dilation: Any) -> Any:
    bn = conv.bn
    y = F.conv2d(x, conv.conv.weight, padding=dilation, dilation=dilation)
    return F.silu(F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps))


def test_value() -> None:
    block, (mixture, text, gate) = shake(block_of()).eval(), inputs()
    scale = 1 / (1 + torch.exp(-(gate @ block.channel_gate.weight.T + block.channel_gate.bias)))
    tb = block.text.weight @ text.mean(0) + block.text.bias
    tb = tb.view(1, -1, 1, 1).repeat(2, 1, 5, 6)
    wanted = cbs(block.dilated, mixture * scale.view(2, C, 1, 1), 2) + cbs(
        block.textual, torch.cat([mixture, tb], 1), 1
    )
    torch.testing.assert_close(block([mixture, text, gate]), wanted, atol=1e-5, rtol=1e-4)
    assert torch.equal(block.text_constants(text)[0], tb[:1, :, :1, :1])


@pytest.mark.parametrize("closed", [False, True])
def test_fold_convolves_the_text_map_by_itself(closed: bool) -> None:
    block, x = shake(block_of()).eval(), inputs()
    wanted = block(x)
    if closed:  # as the host does before prediction and export
        block.textual.conv = fuse_conv_and_bn(block.textual.conv, block.textual.bn)
        del block.textual.bn
        block.textual.forward = block.textual.forward_fuse
    block.fold()
    torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-5)  # borders, where the text map ends, included
    assert block.textual.in_channels == C
    state = {k: v.clone() for k, v in block.state_dict().items()}
    block.fold()
    assert all(torch.equal(v, state[k]) for k, v in block.state_dict().items())
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(twin(x), block(x))
    block.fold_text(x[1])
    torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-5)
    assert_exports(block, [inputs(1)], [inputs(1)])


def test_mixture_text_and_gate_all_count() -> None:
    block, x = shake(block_of()).eval(), inputs()
    before = block(x)
    for i in range(3):
        changed = list(x)
        changed[i] = x[i].flip(1) if i != 1 else -x[i]
        assert (block(changed) - before).abs().max() > 1e-3


def test_gradients() -> None:
    assert_gradients_reach_all(shake(block_of()), [inputs()])
    block = shake(block_of()).double().eval()
    x = [t.double().requires_grad_() for t in inputs(1, 3, 2)]
    assert torch.autograd.gradcheck(lambda *t: block(list(t)), x)
    wild = [(100 * t).requires_grad_() for t in inputs()]
    block_of()(wild).square().sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in wild)


@pytest.mark.parametrize("folded", [False, True])
def test_half_precision(folded: bool) -> None:
    block, x = shake(block_of()).eval(), inputs()
    wanted = block(x)
    if folded:
        block.fold_text(x[1])
    got = block.half()([t.half() for t in x])
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), wanted, atol=3e-2, rtol=0)


def test_fold() -> None:
    block, x = shake(block_of()).eval(), inputs()
    wanted = block(x)
    block.fold_text(x[1])
    assert torch.equal(block([x[0], 0 * x[1], x[2]]), wanted)


def test_round_trips() -> None:
    assert_round_trips(shake(block_of()), block_of(), [inputs()])
    assert_exports(shake(block_of()), [inputs()], [inputs()])
    x, block = inputs(), shake(block_of()).eval()
    block.fold_text(x[1])
    assert_exports(block, [x], [[inputs()[0], x[1], x[2]]])


def test_parse_rule() -> None:
    plan = ExpertEnsemble.parse(RowContext("ExpertEnsemble", [64, 256, 32], []))
    assert (plan.args, plan.c2) == ([64, 256, 32], 64)
