"""Dual attention: equations 2-4 against plain functional code, identity at initialisation, export."""

import copy
import io
import pickle
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from block_checks import LEGACY, assert_refuses_others
from torch import nn
from ultralytics.utils.torch_utils import fuse_conv_and_bn

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.attention.dual_attention import DualAttention
from ultra_dsmoe.nn.registry import LAYERS, RowContext


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def awake(c: int = 8, **kwargs: Any) -> Any:
    """Return a block in evaluation mode whose norms are not the identity any more."""
    block = DualAttention(c, **kwargs).eval()
    for bn in (block.channel_out.bn, block.spatial_out.bn):
        torch.nn.init.normal_(bn.weight)
        torch.nn.init.normal_(bn.bias)
        torch.nn.init.normal_(bn.running_mean)
        torch.nn.init.uniform_(bn.running_var, 0.5, 2)
    return block


def reference(block: Any, x: Any) -> Any:
    """Compute equations 2-4 from the block's tensors, one operation at a time."""

    def norm(y: Any, bn: Any) -> Any:
        y = (y - bn.running_mean[:, None, None]) / torch.sqrt(bn.running_var[:, None, None] + bn.eps)
        return y * bn.weight[:, None, None] + bn.bias[:, None, None]

    def pointwise(y: Any, conv: Any) -> Any:
        y = torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], y)
        return y if conv.bias is None else y + conv.bias[:, None, None]

    hidden = pointwise(pointwise(x, block.channel_in), block.squeeze).clamp(min=0)
    mc = torch.sigmoid(norm(pointwise(pointwise(hidden, block.excite), block.channel_out.conv), block.channel_out.bn))
    y = F.conv2d(x, block.spatial_in.weight, block.spatial_in.bias, padding=4, dilation=4).clamp(min=0)
    y = F.conv2d(y, block.spatial_out.conv.weight, padding=4, dilation=4)
    return (mc + torch.sigmoid(norm(y, block.spatial_out.bn))) * x


@pytest.mark.parametrize(("shape", "dilation"), [((1, 16, 7, 5), 4), ((2, 24, 1, 3), 1), ((3, 130, 9, 9), 2)])
def test_shape_is_kept(shape: Any, dilation: int) -> None:
    x = torch.randn(shape)
    block = awake(shape[1], dilation=dilation)
    assert block(x).shape == x.shape
    assert block.spatial_attention(x).shape == (shape[0], 1, *shape[2:])


@pytest.mark.parametrize(("c", "thousands"), [(128, 45), (256, 177), (512, 707)])
def test_size_is_the_specified_one(c: int, thousands: int) -> None:
    assert round(sum(p.numel() for p in DualAttention(c).parameters()) / 1e3) == thousands


def test_arguments() -> None:
    assert_refuses_others(DualAttention, "residual", c=8, reduction=4, dilation=2)


@pytest.mark.parametrize("mode", [True, False])
def test_fresh_block_is_exactly_the_identity(mode: bool) -> None:
    x = 10 * torch.randn(2, 8, 6, 6)
    assert torch.equal(DualAttention(8).train(mode)(x), x)
    assert torch.equal(DualAttention(8, residual=True).train(mode)(x), 2 * x)


def test_value_follows_the_equations() -> None:
    block, x = awake(12), torch.randn(2, 12, 9, 7)
    assert (block.weight(x) - 1).abs().max() > 0.1  # or the comparison would say nothing
    torch.testing.assert_close(block(x), reference(block, x))
    residual = copy.deepcopy(block)
    residual.residual = True
    torch.testing.assert_close(residual(x), reference(block, x) + x)
    torch.testing.assert_close(residual.attended(x), reference(block, x))  # M(F) has no second F
    assert block.channels == 12


@pytest.mark.parametrize(("beta", "factor"), [(60.0, 2.0), (-60.0, 0.0)])
def test_limits_of_the_weight(beta: float, factor: float) -> None:
    block, x = DualAttention(8).eval(), torch.randn(1, 8, 5, 5)
    torch.nn.init.constant_(block.channel_out.bn.bias, beta)
    torch.nn.init.constant_(block.spatial_out.bn.bias, beta)
    torch.testing.assert_close(block(x), factor * x)


def test_branches_differ_in_what_they_see() -> None:
    """A change at one cell reaches other cells through the dilated branch only, at multiples of its dilation."""
    block, x = awake(8), torch.randn(1, 8, 17, 17)
    y = x.clone()
    y[..., 8, 8] += 1
    channel = (block.channel_attention(y) - block.channel_attention(x)).abs().amax(1)[0].nonzero()
    assert channel.tolist() == [[8, 8]]
    spatial = (block.spatial_attention(y) - block.spatial_attention(x)).abs()[0, 0].nonzero()
    assert len(spatial) > 1
    assert not ((spatial - 8) % 4).any()


def test_gradients() -> None:
    block = awake(4).double()
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, x)


def test_identity_is_left_after_one_step() -> None:
    block, x, target = DualAttention(8), torch.randn(2, 8, 6, 6), torch.randn(2, 8, 6, 6)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        ((block(x) - target) ** 2).mean().backward()
        optimizer.step()
        moved = {name for name, p in block.named_parameters() if p.grad.abs().max() > 0}
        if step == 0:
            assert {n.rsplit(".", 1)[0] for n in moved} == {"channel_out.bn", "spatial_out.bn"}
    assert {"channel_in.weight", "squeeze.weight", "excite.weight", "spatial_in.weight"} <= moved


def test_round_trips() -> None:
    block, x = awake(8), torch.randn(1, 8, 6, 6)
    other = DualAttention(8).eval()
    other.load_state_dict(block.state_dict())
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block)), other):
        assert torch.equal(twin(x), block(x))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_fold_merges_the_linear_convolutions(fused: bool, residual: bool) -> None:
    block, x = awake(24, residual=residual), torch.randn(2, 24, 9, 7)
    wanted, mc = block(x), block.channel_attention(x)
    assert mc.std() > 0.05  # or the comparison would say nothing
    if fused:  # as the host does before prediction and export
        for m in (block.channel_out, block.spatial_out):
            m.conv = fuse_conv_and_bn(m.conv, m.bn)
            del m.bn
            m.forward = m.forward_fuse
    block.fold()
    torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(block.channel_attention(x), mc, atol=1e-5, rtol=1e-5)
    shapes = [tuple(m.weight.shape[:2]) for m in block.modules() if isinstance(m, nn.Conv2d)]
    assert sorted(shapes) == [(1, 8), (8, 24), (8, 24), (24, 8)]
    merged = [*block.channel_in.parameters(), *block.channel_out.parameters()]
    assert [p.requires_grad for p in merged] == [False] * 4, "what is merged is for inference"
    state = {k: v.clone() for k, v in block.state_dict().items()}
    block.fold()
    assert all(torch.equal(v, state[k]) for k, v in block.state_dict().items())
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(twin(x), block(x))


def test_a_fused_net_has_folded_attentions() -> None:
    net = DSMoEModel("yolov8n-dsmoe.yaml", nc=3, verbose=False).eval()
    for attention in net.blocks(DualAttention):
        attention.load_state_dict(awake(attention.channel_in.in_channels).state_dict())
    images = torch.rand(1, 3, 64, 64)
    names = list(net.state_dict())
    with torch.no_grad():
        wanted = net(images)[0]
        fused = copy.deepcopy(net).fuse(verbose=False)
        torch.testing.assert_close(fused(images)[0], wanted, atol=1e-4, rtol=1e-5)
    assert all(isinstance(attention.squeeze, nn.Identity) for attention in fused.blocks(DualAttention))
    assert list(net.state_dict()) == names
    assert not any(isinstance(attention.squeeze, nn.Identity) for attention in net.blocks(DualAttention))


def test_fold_leaves_replaced_convolutions_alone() -> None:
    """Quantization-aware training puts other classes in their place."""

    class QuantConv2d(nn.Conv2d):
        pass

    block = awake(8)
    block.squeeze = QuantConv2d(8, 8, 1)
    names = [name for name, _ in block.named_parameters()]
    block.fold()
    assert [name for name, _ in block.named_parameters()] == names


@pytest.mark.parametrize("folded", [False, True])
def test_onnx_export(folded: bool) -> None:
    block, x = awake(8), torch.randn(1, 8, 12, 10)
    if folded:
        block.fold()
    buffer = io.BytesIO()
    torch.onnx.export(block, (x,), buffer, opset_version=17, input_names=["x"], **LEGACY)
    ops = {node.op_type for node in onnx.load_from_string(buffer.getvalue()).graph.node}
    assert ops <= {"Conv", "Relu", "Sigmoid", "Add", "Mul"}
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], block(x).detach().numpy(), atol=1e-4)


def test_parse_rule() -> None:
    plan = LAYERS["DualAttention"].parse(RowContext("DualAttention", 64, [8, 2, True], n=2))
    assert (plan.args, plan.c2, plan.repeats) == ([64, 8, 2, True], 64, 2)
    assert DualAttention.parse(RowContext("DualAttention", 64, [])).args == [64, 16, 4, False]
    block = DualAttention(*plan.args)
    assert block.residual
    assert block.squeeze.out_channels == 8
    assert block.spatial_in.dilation == (2, 2)
    with pytest.raises(ConfigError, match="'from' with 1 inputs"):
        DualAttention.parse(RowContext("DualAttention", [64, 64], []))
