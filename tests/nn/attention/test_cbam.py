"""CBAM: equations 6-8 by hand; an identity must fail."""

from typing import Any

import pytest
import torch
from block_checks import assert_exports, assert_gradients_reach_all, assert_refuses_others, assert_round_trips, shake

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import CBAM, RowContext


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (2, 16, 5, 7), (3, 33, 9, 2)])
def test_shape(shape: Any) -> None:
    block, x = CBAM(shape[1]), torch.randn(shape)
    assert block(x).shape == shape
    assert block.channel_attention(x).shape == (*shape[:2], 1, 1)
    assert block.spatial_attention(x).shape == (shape[0], 1, *shape[2:])


def test_arguments() -> None:
    assert_refuses_others(CBAM, c=8, reduction=4, k=3)


def test_errors() -> None:
    for k in (2, 4, 6):
        with pytest.raises(ConfigError, match=f"CBAM k: expected an odd kernel length, got {k}"):
            CBAM(8, k=k)
    with pytest.raises(ConfigError, match="'from' with 1 inputs"):
        CBAM.parse(RowContext("CBAM", [8, 8], []))


def by_hand(block: Any, x: Any) -> Any:
    """Compute one image (C, H, W) with plain sums."""
    c, h, w = x.shape
    first, _, last = block.mlp

    def mlp(v: Any) -> Any:
        hidden = (first.weight[:, :, 0, 0] @ v + first.bias).clamp(min=0)
        return last.weight[:, :, 0, 0] @ hidden + last.bias

    flat = x.reshape(c, -1)
    mc = 1 / (1 + torch.exp(-(mlp(flat.sum(1) / (h * w)) + mlp(flat.max(1).values))))
    x = mc[:, None, None] * x
    mean, peak = x.sum(0) / c, x.max(0).values
    kernel, ms = block.spatial.weight[0], torch.zeros(h, w)
    for i in range(h):
        for j in range(w):
            total = torch.zeros(())
            for a in range(-3, 4):
                for b in range(-3, 4):
                    if 0 <= i + a < h and 0 <= j + b < w:
                        total = total + kernel[0, a + 3, b + 3] * mean[i + a, j + b]
                        total = total + kernel[1, a + 3, b + 3] * peak[i + a, j + b]
            ms[i, j] = 1 / (1 + torch.exp(-total))
    return ms * x


def test_value() -> None:
    block, x = shake(CBAM(8, 2)), torch.randn(2, 8, 5, 4)
    wanted = torch.stack([by_hand(block, image) for image in x])
    torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-5)
    assert (block(x) - x).abs().max() > 0.1  # no identity
    torch.testing.assert_close(block.weight(x) * x, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(block.attended(x), block(x))
    assert block.channels == 8
    assert block.residual is False, "for a distiller"
    ratio = block(x) / x
    assert ratio.std(1).max() > 0.01  # channels weigh differently,
    assert ratio.std((2, 3)).max() > 0.01  # and so do positions


def test_limits() -> None:
    block, x = CBAM(8), torch.randn(1, 8, 6, 6)
    for p in block.parameters():
        torch.nn.init.zeros_(p)
    torch.testing.assert_close(block(x), x / 2 / 2)  # MLP 0 + 0 and convolution 0: both gates are a half
    torch.nn.init.constant_(block.mlp[2].bias, 60.0)
    torch.testing.assert_close(block(x), x / 2)


def test_width_of_the_bottleneck() -> None:
    assert CBAM(128).mlp[0].out_channels == 8
    assert CBAM(16).mlp[0].out_channels == 4
    assert CBAM(64, 4).mlp[0].out_channels == 16


def test_gradients() -> None:
    assert_gradients_reach_all(CBAM(8), [torch.randn(2, 8, 5, 5)])
    assert torch.autograd.gradcheck(CBAM(4).double(), torch.randn(1, 4, 4, 3, dtype=torch.float64, requires_grad=True))
    wild = (100 * torch.randn(1, 8, 5, 5)).requires_grad_()
    CBAM(8)(wild).sum().backward()
    assert torch.isfinite(wild.grad).all()


def test_round_trips() -> None:
    assert_round_trips(shake(CBAM(8)), CBAM(8), [torch.randn(2, 8, 5, 5)])
    assert_exports(shake(CBAM(8)), [torch.randn(1, 8, 9, 7)], [torch.randn(1, 8, 9, 7)])


def test_parse_rule() -> None:
    plan = CBAM.parse(RowContext("CBAM", 64, [8]))
    assert (plan.args, plan.kwargs, plan.c2) == ([64], {"reduction": 8}, 64)
    assert CBAM.parse(RowContext("CBAM", 64, [])).kwargs == {"reduction": 16}
