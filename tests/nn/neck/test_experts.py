"""The three kinds of expert, each by hand; a cross-modal expert is addressed by its number."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_exports, assert_gradients_reach_all, assert_round_trips, shake
from torch import nn

from ultra_dsmoe.nn.neck.experts import CrossModalExperts, GlobalExpert, LocalExpert

C, D, E = 6, 10, 4


@pytest.mark.parametrize("shape", [(1, C, 1, 1), (2, C, 7, 5), (3, C, 4, 9)])
def test_shape(shape: Any) -> None:
    x = torch.randn(shape)
    assert LocalExpert(C)(x).shape == shape
    assert GlobalExpert(C)(x).shape == shape
    experts = CrossModalExperts(C, E, None)
    idx = torch.zeros(shape[0], 3, dtype=torch.long)
    assert experts(x.unsqueeze(1), idx, experts.text_bias(None)).shape == (shape[0], 3, *shape[1:])
    assert LocalExpert(7)(torch.randn(1, 7, 3, 3)).shape == (1, 7, 3, 3)


def axis_sum(x: Any, kernel: Any, axis: Any) -> Any:
    """Depthwise correlation along one axis with zeros outside, by shifting."""
    length = kernel.shape[-1]
    out = torch.zeros_like(x)
    n = x.shape[axis]
    for tap in range(length):
        shift = tap - length // 2
        for i in range(n):
            if 0 <= i + shift < n:
                out.select(axis, i).add_(kernel[:, tap].view(1, -1, 1) * x.select(axis, i + shift))
    return out


def test_local_value() -> None:
    block, x = shake(LocalExpert(C)), torch.randn(2, C, 5, 9)
    with torch.no_grad():
        row = axis_sum(x, block.row.weight[:, 0, 0], 3)
        col = axis_sum(x, block.col.weight[:, 0, :, 0], 2)
        halves = [
            torch.einsum("oi,bihw->bohw", pw.weight[:, :, 0, 0], y) + pw.bias.view(1, -1, 1, 1)
            for pw, y in ((block.row_pw, row), (block.col_pw, col))
        ]
    y = torch.cat(halves, 1)
    torch.testing.assert_close(block(x), y * torch.sigmoid(y), atol=1e-5, rtol=1e-4)


def test_local_reach() -> None:
    """One row's change reaches three rows up and down through the columns, and its own row only through the rows."""
    block, x = LocalExpert(C), torch.randn(1, C, 11, 11)
    y = x.clone()
    y[..., 5, 5] += 1
    moved = (block(y) - block(x)).abs().amax(1)[0] > 1e-6
    assert {tuple(m) for m in moved.nonzero().tolist()} == {(5, j) for j in range(2, 9)} | {(i, 5) for i in range(2, 9)}


def test_global_value() -> None:
    block, x = shake(GlobalExpert(C)), torch.randn(1, C, 6, 5)

    def pool(k: Any) -> Any:
        out = torch.zeros_like(x)
        for i in range(6):
            for j in range(5):
                window = x[..., max(i - k // 2, 0) : i + k // 2 + 1, max(j - k // 2, 0) : j + k // 2 + 1]
                out[..., i, j] = window.mean((2, 3))  # of the pixels that exist
        return out

    joined = torch.cat([x, pool(3), pool(7)], 1)
    y = torch.einsum("oi,bihw->bohw", block.mix.weight[:, :, 0, 0], joined) + block.mix.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(block(x), F.silu(y), atol=1e-5, rtol=1e-4)


def one_expert(experts: Any, n: Any, x: Any, text: Any) -> Any:
    """Equation 24 as written: 1x1 convolution on the map and on the replicated text map, 3x3, LN over channels."""
    maps = F.conv2d(x, experts.w_f[n][..., None, None])
    if text is not None:
        own = text[n % len(text)].view(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])
        maps = maps + F.conv2d(own, experts.w_t[n][..., None, None])
    dw = F.conv2d(maps, experts.dw[n].view(-1, 1, 3, 3), experts.conv_bias[n, :, 0], padding=1, groups=x.shape[1])
    y = F.layer_norm(dw.permute(0, 2, 3, 1), (x.shape[1],), experts.ln_gain[n, :, 0], experts.ln_bias[n, :, 0])
    return F.silu(y).permute(0, 3, 1, 2)


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("text", [True, False])
def test_cross_modal_value(text: bool, dynamic: bool) -> None:
    experts = shake(CrossModalExperts(C, E, D if text else None))
    x, t = torch.randn(3, C, 5, 4), torch.randn(3, D) if text else None
    idx = torch.tensor([[0, 3], [2, 1], [1, 1]])
    got = experts(x.unsqueeze(1), idx, experts.text_bias(t), dynamic)
    for b in range(3):
        for slot, n in enumerate(idx[b].tolist()):
            wanted = one_expert(experts, n, x[b : b + 1], t)[0]
            torch.testing.assert_close(got[b, slot], wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("ids", [[2], [3, 0], [0, 1, 2, 3]])
def test_fixed_experts_are_the_same_on_every_image(ids: Any) -> None:
    experts = shake(CrossModalExperts(C, E, D))
    x, t = torch.randn(2, C, 5, 4), torch.randn(3, D)
    got = experts.fixed(x, torch.tensor(ids), experts.text_bias(t), len(ids))
    wanted = torch.stack([one_expert(experts, n, x, t) for n in ids], 1)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_text_bias_by_hand() -> None:
    """Expert n sees class n mod K."""
    experts, text = CrossModalExperts(C, E, D), torch.randn(3, D)
    bias = experts.text_bias(text)
    for n, k in ((0, 0), (1, 1), (2, 2), (3, 0)):
        torch.testing.assert_close(bias[n], experts.w_t[n] @ text[k])
    assert not CrossModalExperts(C, E, None).text_bias(None).any()


def test_initial_scale() -> None:
    """He-like bounds: unit input stays of order one through the mixing and the depthwise kernel."""
    experts = CrossModalExperts(64, 8, None)
    assert experts.w_f.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert experts.dw.std().item() == pytest.approx(9**-0.5, rel=0.05)


def test_no_parameter_looks_like_a_kernel() -> None:
    """A host optimizer orthogonalises parameters of two and of four dimensions; stacks of experts are none."""
    assert {p.ndim for p in CrossModalExperts(C, E, D).parameters()} == {3}


def test_stacked_names_all_parameters() -> None:
    experts = CrossModalExperts(C, E, D)
    assert {id(p) for p in experts.stacked()} == {id(p) for p in experts.parameters()}
    assert all(p is not experts.w_t for p in experts.stacked(text=False))
    assert all(len(p) == E for p in experts.stacked())


class AllExperts(nn.Module):
    """Every expert on every image, for the checks that want one tensor in and one out."""

    def __init__(self, text: bool = True) -> None:
        super().__init__()
        self.experts, self.text = CrossModalExperts(C, E, D if text else None), text

    def forward(self, x: Any) -> Any:
        x, text = x if isinstance(x, list) else (x, None)
        idx = torch.arange(E).expand(x.shape[0], -1)
        return self.experts(x.unsqueeze(1), idx, self.experts.text_bias(text))


def test_gradients() -> None:
    for block in (LocalExpert(C), GlobalExpert(C)):
        assert_gradients_reach_all(shake(block), [torch.randn(2, C, 5, 5)])
        x = torch.randn(1, C, 3, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(block.double(), x)
    assert_gradients_reach_all(shake(AllExperts()), [[torch.randn(2, C, 5, 5), torch.randn(3, D)]])
    wild = (100 * torch.randn(1, C, 5, 5)).requires_grad_()
    AllExperts(False)(wild).square().sum().backward()
    assert torch.isfinite(wild.grad).all()
    flat = torch.zeros(1, C, 5, 5, requires_grad=True)  # no variance to normalise
    AllExperts(False)(flat).sum().backward()
    assert torch.isfinite(flat.grad).all()


def test_gradient_by_differences() -> None:
    """The layer normalisation runs in fp32 by design."""
    block, x = shake(AllExperts(False)), torch.randn(1, C, 4, 4, requires_grad=True)
    weight, direction, step = torch.randn(1, E, C, 4, 4), torch.randn(1, C, 4, 4), 1e-2
    (block(x) * weight).sum().backward()
    with torch.no_grad():
        ahead, behind = ((block(x + s * direction) * weight).sum().item() for s in (step, -step))
    assert (x.grad * direction).sum().item() == pytest.approx((ahead - behind) / (2 * step), rel=2e-2, abs=1e-2)


def test_half_precision_does_not_overflow() -> None:
    """Maps of a few hundred have squares beyond half precision; the layer normalisation must not see them."""
    block, x = AllExperts(False), 300 * torch.randn(1, C, 5, 5)
    wanted = block(x)
    got = block.half()(x.half())
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), wanted, atol=5e-2, rtol=0)


def test_round_trips() -> None:
    x = torch.randn(2, C, 6, 5)
    for kind in (LocalExpert, GlobalExpert):
        assert_round_trips(shake(kind(C)), kind(C), [x])
        assert_exports(shake(kind(C)), [x], [torch.randn(2, C, 6, 5)])
    pair = [x, torch.randn(3, D)]
    assert_round_trips(shake(AllExperts()), AllExperts(), [pair])
    assert_exports(shake(AllExperts()), [pair], [[torch.randn(2, C, 6, 5), torch.randn(3, D)]])
