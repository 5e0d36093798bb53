"""GAD: the blend by local gradient in plain loops, flat and textured limits."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_exports, assert_gradients_reach_all, assert_refuses_others, assert_round_trips, shake
from torch import nn

from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.nn import GAD, RowContext
from ultra_dsmoe.ops.image_gradient import gradient_magnitude


@pytest.mark.parametrize("size", [(2, 2), (8, 6), (10, 14)])
def test_shape(size: Any) -> None:
    block = GAD(3, 8).eval()
    assert (block.detail.weight.shape, block.smooth.weight.shape) == ((8, 3, 3, 3), (8, 3, 1, 1))
    x = torch.randn(1, 3, *size)
    assert block(x).shape == (1, 8, size[0] // 2, size[1] // 2)
    assert block.smoothness(x).shape == (1, 1, size[0] // 2, size[1] // 2)


def test_arguments() -> None:
    assert_refuses_others(GAD, c1=4, c2=8)


def test_errors() -> None:
    with pytest.raises(ShapeError, match="GAD input: expected an even height and width, got 7x8"):
        GAD(3, 4)(torch.randn(1, 3, 7, 8))
    with pytest.raises(ConfigError, match="'from' with 1 inputs"):
        GAD.parse(RowContext("GAD", [8, 8], []))


def smoothness_by_loops(x: Any, alpha: Any) -> Any:
    """Return rho of one image, element by element."""
    m = x.mean(0)
    h, w = m.shape
    g = torch.zeros(h, w)
    for i in range(h):
        for j in range(w):
            dx = (m[i, min(j + 1, w - 1)] - m[i, max(j - 1, 0)]) / 2
            dy = (m[min(i + 1, h - 1), j] - m[max(i - 1, 0), j]) / 2
            g[i, j] = math.hypot(dx, dy)
    energy = torch.zeros(h // 2, w // 2)
    for i in range(h // 2):
        for j in range(w // 2):  # an 8x8 window from 3 before to 4 after, zeros outside
            window = g[max(2 * i - 3, 0) : 2 * i + 5, max(2 * j - 3, 0) : 2 * j + 5]
            energy[i, j] = window.sum() / 64
    return torch.exp(-alpha * energy / energy.mean())


def test_smoothness_value() -> None:
    block, x = GAD(3, 4), torch.randn(2, 3, 12, 10)
    torch.nn.init.constant_(block.log_alpha, 2.0)
    alpha = math.log(1 + math.exp(2.0))
    wanted = torch.stack([smoothness_by_loops(image, alpha) for image in x]).unsqueeze(1)
    torch.testing.assert_close(block.smoothness(x), wanted, atol=5e-3, rtol=0)
    assert wanted.max() - wanted.min() > 0.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_smoothness_of_faint_structure(dtype: Any) -> None:
    """The guard against flat images counts where the mean gradient is as small as it; half would lose the squares."""
    x = (2e-4 * torch.randn(1, 3, 12, 10)).to(dtype)
    energy = F.avg_pool2d(gradient_magnitude(x.double()), 8, stride=2, padding=3)
    assert 1e-7 < energy.mean() < 1e-5
    wanted = torch.exp(-energy / (energy.mean() + 1e-6))
    torch.testing.assert_close(GAD(3, 4).smoothness(x).double(), wanted, atol=2e-3, rtol=0)
    assert GAD(3, 4).smoothness(x).dtype == dtype


def test_initial_alpha_is_one() -> None:
    assert F.softplus(GAD(1, 1).log_alpha).item() == pytest.approx(1)


def test_value_blends_the_two_paths() -> None:
    block, x = shake(GAD(3, 4)).eval(), torch.randn(2, 3, 8, 8)
    rho, bn = block.smoothness(x), block.bn
    cheap = torch.einsum("oi,bihw->bohw", block.smooth.weight[:, :, 0, 0], F.avg_pool2d(x, 2))
    dense = F.conv2d(x, block.detail.weight, stride=2, padding=1)
    y = F.batch_norm(rho * cheap + (1 - rho) * dense, bn.running_mean, bn.running_var, bn.weight, bn.bias)
    torch.testing.assert_close(block(x), y * torch.sigmoid(y), atol=1e-5, rtol=1e-5)


def test_fold_puts_the_normalisation_into_both_paths() -> None:
    block, x = shake(GAD(3, 4)).eval(), torch.randn(2, 3, 8, 8)
    wanted = block(x)
    block.fold()
    assert isinstance(block.bn, nn.Identity)
    torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-5)
    block.fold()
    torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-5)


def test_limits_constant_image_takes_the_cheap_path() -> None:
    block, x = shake(GAD(3, 4)).eval(), torch.full((1, 3, 16, 16), 5.0)
    torch.testing.assert_close(block.smoothness(x), torch.ones(1, 1, 8, 8))
    wanted = block(x)
    torch.nn.init.normal_(block.detail.weight)  # the other path has no say
    torch.testing.assert_close(block(x), wanted)


def test_limits_texture_takes_the_detail_path() -> None:
    """Half flat, half textured: smoothness is 1 in the flat half and small in the other, whatever the contrast."""
    x = torch.zeros(1, 2, 32, 64)
    x[..., 32:] = torch.randn(1, 2, 32, 32)
    for contrast in (1, 100):
        rho = GAD(2, 2).smoothness(contrast * x)[0, 0]
        assert rho[:, :12].min() > 0.999
        assert rho[4:-4, 20:-4].max() < 0.4
    one_image = GAD(2, 2).smoothness(torch.cat([x, torch.zeros_like(x)]))
    torch.testing.assert_close(one_image[:1], GAD(2, 2).smoothness(x))  # each image by its own mean


def test_gradients() -> None:
    assert_gradients_reach_all(GAD(3, 4), [torch.randn(2, 3, 8, 8)])
    block, x = GAD(2, 3).eval().double(), torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    # rho is computed in fp32 by design: only the paths are held to double precision
    block.smoothness = lambda x: torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64)
    assert torch.autograd.gradcheck(block, x)
    for scale in (0.0, 1e-6, 100.0):
        wild = (scale * torch.randn(2, 3, 8, 8)).requires_grad_()
        GAD(3, 4)(wild).square().sum().backward()
        assert torch.isfinite(wild.grad).all()


def test_gradient_of_smoothness_by_differences() -> None:
    block, x = GAD(1, 1), torch.randn(1, 1, 8, 8, requires_grad=True)
    weight = torch.randn(1, 1, 4, 4)
    (block.smoothness(x) * weight).sum().backward()
    direction = torch.randn_like(x)
    step = 1e-2
    with torch.no_grad():
        ahead, behind = (((block.smoothness(x + s * direction)) * weight).sum() for s in (step, -step))
    assert (x.grad * direction).sum().item() == pytest.approx((ahead - behind).item() / (2 * step), rel=0.05, abs=1e-3)


def test_round_trips() -> None:
    assert_round_trips(shake(GAD(3, 4)), GAD(3, 4), [torch.randn(2, 3, 8, 8)])
    assert_exports(shake(GAD(3, 4)), [torch.randn(1, 3, 16, 12)], [10 * torch.randn(1, 3, 16, 12)])
    half = shake(GAD(3, 4)).eval()
    x = torch.randn(1, 3, 8, 8)
    wanted = half(x)
    got = half.half()(x.half())
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), wanted, atol=2e-2, rtol=0)


def test_parse_rule() -> None:
    plan = GAD.parse(RowContext("GAD", 64, [256], width=0.5))
    assert (plan.args, plan.c2) == ([64, 128], 128)
