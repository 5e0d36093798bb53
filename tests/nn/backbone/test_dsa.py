"""DSA: the factorised depthwise convolution by hand, its reach, its residual."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_exports, assert_gradients_reach_all, assert_refuses_others, assert_round_trips, shake

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import DSA, RowContext


@pytest.mark.parametrize("shape", [(1, 4, 7, 5), (2, 3, 1, 1), (3, 8, 6, 9)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_shape(shape: Any, dilation: int) -> None:
    assert DSA(shape[1], dilation=dilation).eval()(torch.randn(shape)).shape == shape


def test_arguments() -> None:
    assert_refuses_others(DSA, c=8, k=3, dilation=2)


def test_errors() -> None:
    with pytest.raises(ConfigError, match="DSA k: expected an odd kernel length, got 4"):
        DSA(8, k=4)
    with pytest.raises(ConfigError, match="'from' with 1 inputs"):
        DSA.parse(RowContext("DSA", [8, 8], []))


@pytest.mark.parametrize(("k", "dilation"), [(3, 1), (3, 2), (5, 2)])
def test_value_by_outer_product(k: int, dilation: int) -> None:
    """The 1xk and kx1 kernels together are one kxk depthwise kernel of rank one."""
    c, x = 4, torch.randn(2, 4, 9, 8)
    block = shake(DSA(c, k, dilation)).eval()
    row, col, bn1, _, mix, bn2, _ = block.body
    kernel = col.weight * row.weight  # (c, 1, k, 1) * (c, 1, 1, k)
    y = F.conv2d(x, kernel, padding=dilation * (k // 2), dilation=dilation, groups=c)

    def norm_relu6(y: Any, bn: Any) -> Any:
        y = F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
        return y.clamp(0, 6)

    y = torch.einsum("oi,bihw->bohw", mix.weight[:, :, 0, 0], norm_relu6(y, bn1))
    wanted = x + norm_relu6(y, bn2)
    torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-5)
    assert (wanted - x).abs().max() > 0.1


def test_three_taps_two_apart_by_default() -> None:
    row, col = DSA(4).body[:2]
    assert (row.kernel_size, row.dilation) == ((1, 3), (1, 2))
    assert (col.kernel_size, col.dilation) == ((3, 1), (2, 1))


def test_limits() -> None:
    block, x = DSA(4).eval(), 100 * torch.randn(1, 4, 6, 6)
    added = block(x) - x
    assert added.min() >= -1e-4
    assert added.max() <= 6 + 1e-4  # ReLU6
    torch.nn.init.constant_(block.body[-2].weight, 0)
    assert torch.equal(block(x), x)


def test_reach() -> None:
    """One cell reaches dilation * (k // 2) cells in each direction."""
    block, x = shake(DSA(4, 3, 2)).eval(), torch.randn(1, 4, 11, 11)
    y = x.clone()
    y[..., 5, 5] += 1
    moved = (block(y) - block(x)).abs().amax(1)[0].nonzero()
    assert {tuple(m) for m in moved.tolist()} <= {(i, j) for i in (3, 5, 7) for j in (3, 5, 7)}
    assert moved.min() == 3
    assert moved.max() == 7


def test_gradients() -> None:
    assert_gradients_reach_all(DSA(4), [torch.randn(2, 4, 6, 6)])
    block = shake(DSA(3)).eval().double()
    assert torch.autograd.gradcheck(block, torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True))


def test_round_trips() -> None:
    assert_round_trips(shake(DSA(4)), DSA(4), [torch.randn(2, 4, 6, 6)])
    assert_exports(shake(DSA(4)), [torch.randn(1, 4, 8, 6)], [torch.randn(1, 4, 8, 6)])


def test_parse_rule() -> None:
    plan = DSA.parse(RowContext("DSA", 64, [1], n=2))
    assert (plan.args, plan.kwargs, plan.c2, plan.repeats) == ([64], {"dilation": 1}, 64, 2)
    assert DSA.parse(RowContext("DSA", 64, [])).kwargs == {"dilation": 2}
