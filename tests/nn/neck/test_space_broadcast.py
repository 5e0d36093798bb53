"""SpaceBroadcast: equations 14-19 with torchvision's deformable convolution as the sampler."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_exports, assert_gradients_reach_all, assert_refuses_others, assert_round_trips, shake
from torchvision.ops import deform_conv2d

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import RowContext, SpaceBroadcast
from ultra_dsmoe.nn.neck.space_broadcast import MAX_OFFSET, text_map_width

C, D, C2 = 8, 12, 6


def block_of() -> SpaceBroadcast:
    return SpaceBroadcast(C, D, C2)


def inputs(b: int = 2, h: int = 5, w: int = 6) -> Any:
    g = torch.randn(b, C, h, w)
    return [torch.randn(b, C, h, w), g * (2 / g.norm(dim=1, keepdim=True)).clamp_max(1), torch.randn(3, D)]


@pytest.mark.parametrize(("b", "h", "w"), [(1, 1, 1), (2, 7, 5), (3, 4, 9)])
def test_shape(b: int, h: int, w: int) -> None:
    block = block_of()
    assert block(inputs(b, h, w) if b > 1 else inputs(2, h, w)).shape == (max(b, 2), C2, h, w)
    x = inputs(b, h, w)
    assert block.eval()(x).shape == (b, C2, h, w)
    assert block.dilation(x[1]).shape == (b, 1, h, w)


def test_arguments() -> None:
    assert_refuses_others(SpaceBroadcast, c=8, text_width=16, c2=8)


def test_errors() -> None:
    with pytest.raises(ConfigError, match="SpaceBroadcast: expected two maps of equal channels, got 8 and 16"):
        SpaceBroadcast.parse(RowContext("SpaceBroadcast", [8, 16, 256], []))
    with pytest.raises(ConfigError, match="'from' with 3 inputs"):
        SpaceBroadcast.parse(RowContext("SpaceBroadcast", [8, 8], []))


def pointwise(x: Any, conv: Any) -> Any:
    return torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], x) + conv.bias[:, None, None]


def reference(block: Any, attended: Any, g: Any, text: Any) -> Any:
    b, _, h, w = g.shape
    p = pointwise(g, block.project)
    fms = torch.cat([attended, p], 1)
    tb = block.text.weight @ text.mean(0) + block.text.bias
    tb_map = tb.view(1, -1, 1, 1).repeat(b, 1, h, w)
    dw = block.offset_dw
    y = F.conv2d(torch.cat([p, tb_map], 1), dw.weight, dw.bias, padding=1, groups=dw.groups)
    o = 3.0 * torch.tanh(pointwise(y, block.offset_pw))
    shift = block.mask_text.weight @ tb + block.mask_text.bias
    mask = 2 * torch.sigmoid(pointwise(fms, block.mask_image) + shift.view(1, 9, 1, 1))
    nrm = torch.tanh(g.norm(dim=1, keepdim=True))
    r = 1 + torch.log1p(torch.exp(block.kappa)) * (1 - nrm)
    tap = torch.arange(3.0) - 1
    dx = o[:, :9] + (r - 1) * tap.repeat(3).view(1, 9, 1, 1)
    dy = o[:, 9:] + (r - 1) * tap.repeat_interleave(3).view(1, 9, 1, 1)
    offset = torch.stack([dy, dx], 2).reshape(b, 18, h, w)
    y = deform_conv2d(fms, offset, block.conv.weight, padding=1, mask=mask)
    bn = block.bn
    return F.silu(F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias))


def test_value() -> None:
    block, x = shake(block_of(), 0.3).eval(), inputs()
    torch.testing.assert_close(block(x), reference(block, *x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("b", [1, 2])
def test_fold_multiplies_before_sampling(b: int) -> None:
    block, x = shake(block_of(), 0.3).eval(), inputs(b)
    wanted = block(x)
    block.fold()
    torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-5)
    assert block.conv.weight.shape == (9 * C2, C + C // 2, 1, 1)
    state = {k: v.clone() for k, v in block.state_dict().items()}
    block.fold()
    assert all(torch.equal(v, state[k]) for k, v in block.state_dict().items())
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(twin(x), block(x))
    block.fold_text(x[2])
    assert_exports(block, [x], [x])


def test_fold_leaves_wide_outputs_alone() -> None:
    block = SpaceBroadcast(C, D, 2 * C)
    block.fold()
    assert block.conv.kernel_size == (3, 3)


def test_starts_as_a_dilated_convolution() -> None:
    """Fresh, offsets are 0, the mask 1 and the dilation 1 + (1 - |FH|)."""
    block, (attended, _, text) = block_of().eval(), inputs()
    for radius, r in ((40.0, 1), (0.0, 2)):  # at the rim, at the origin
        g = torch.full((2, C, 5, 6), radius / C**0.5)
        fms = torch.cat([attended, block.project(g)], 1)
        y = F.conv2d(fms, block.conv.weight, padding=r, dilation=r)
        wanted = F.silu(y / (1 + block.bn.eps) ** 0.5)
        torch.testing.assert_close(block([attended, g, text]), wanted, atol=1e-5, rtol=1e-4)


def test_dilation_by_hand() -> None:
    g = torch.zeros(1, C, 1, 2)
    g[0, 0, 0, 1] = 0.7
    block = block_of()
    torch.testing.assert_close(block.dilation(g).flatten(), torch.tensor([2.0, 2 - math.tanh(0.7)]))
    block.kappa.data.fill_(0.0)
    assert block.dilation(g)[0, 0, 0, 0].item() == pytest.approx(1 + math.log(2))


def test_offsets_are_bounded() -> None:
    block, x = block_of().eval(), inputs()
    torch.nn.init.constant_(block.offset_pw.bias, 1e4)
    assert MAX_OFFSET == 3
    torch.testing.assert_close(block(x), reference(block, *x), atol=1e-5, rtol=1e-4)
    assert torch.isfinite(block([1e3 * t for t in x])).all()


def test_text_moves_the_taps() -> None:
    block, (attended, g, text) = shake(block_of(), 0.3).eval(), inputs()
    assert (block([attended, g, -text]) - block([attended, g, text])).abs().max() > 1e-3
    torch.testing.assert_close(block([attended, g, text.mean(0, keepdim=True)]), block([attended, g, text]))


def test_text_map_width() -> None:
    assert [text_map_width(c) for c in (128, 64, 1)] == [64, 32, 1]


def test_gradients() -> None:
    assert_gradients_reach_all(shake(block_of()), [inputs()])
    block = shake(block_of()).train()
    wild = [(100 * t).requires_grad_() for t in inputs()]
    block(wild).square().sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in (*wild, *block.parameters()))


def test_gradient_by_differences() -> None:
    """Sampling positions are computed in fp32 by design; differences are taken where no tap crosses a pixel."""
    block, (attended, g, text) = shake(block_of(), 0.02).eval(), inputs()
    attended.requires_grad_()
    weight, direction, step = torch.randn(2, C2, 5, 6), torch.randn_like(attended), 1e-2
    (block([attended, g, text]) * weight).sum().backward()
    with torch.no_grad():
        ahead, behind = ((block([attended + s * direction, g, text]) * weight).sum() for s in (step, -step))
    slope = (ahead - behind).item() / (2 * step)
    assert (attended.grad * direction).sum().item() == pytest.approx(slope, rel=1e-2, abs=1e-3)


@pytest.mark.skipif(torch.__version__ < "2.5", reason="this torch samples in half precision on a GPU only")
@pytest.mark.parametrize("folded", [False, True])
def test_half_precision(folded: bool) -> None:
    block, x = shake(block_of()).eval(), inputs()
    wanted = block(x)
    if folded:
        block.fold_text(x[2])
    got = block.half()([t.half() for t in x])
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), wanted, atol=3e-2, rtol=0)


def test_fold() -> None:
    block, (attended, g, text) = shake(block_of()).eval(), inputs()
    wanted = block([attended, g, text])
    block.fold_text(text)
    assert torch.equal(block([attended, g, 0 * text]), wanted)


def test_round_trips() -> None:
    assert_round_trips(shake(block_of()), block_of(), [inputs()])
    assert_exports(shake(block_of(), 0.3), [inputs(1)], [inputs(1)])
    folded, x = shake(block_of()).eval(), inputs(1)
    folded.fold_text(x[2])
    assert_exports(folded, [x], [[*inputs(1)[:2], x[2]]])


def test_parse_rule() -> None:
    plan = SpaceBroadcast.parse(RowContext("SpaceBroadcast", [64, 64, 256], [128], width=0.5))
    assert (plan.args, plan.c2) == ([64, 256, 64], 64)
    assert SpaceBroadcast.parse(RowContext("SpaceBroadcast", [64, 64, 256], [], width=0.5)).c2 == 64


def test_fold_leaves_what_is_no_plain_convolution() -> None:
    class Ranged(torch.nn.Conv2d):
        """As quantization-aware training has them."""

    block = block_of()
    block.conv.__class__ = Ranged
    block.fold()
    assert block.conv.kernel_size == (3, 3)
