"""Differences of maps by hand, on ramps and on constants."""

from typing import Any

import pytest
import torch

from ultra_dsmoe.ops import central_difference, forward_difference, gradient_magnitude


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (1, 2, 4, 1)])
def test_shapes(shape: Any) -> None:
    x = torch.randn(shape)
    b, c, h, w = shape
    assert all(d.shape == shape for d in central_difference(x))
    assert gradient_magnitude(x).shape == (b, 1, h, w)
    assert forward_difference(x).shape == (b, 2 * c, h - 1, w - 1)


def test_central_difference_by_hand() -> None:
    x = torch.tensor([[1.0, 4.0, 9.0], [2.0, 2.0, 2.0]]).view(1, 1, 2, 3)
    dx, dy = central_difference(x)
    assert dx[0, 0].tolist() == [[1.5, 4.0, 2.5], [0, 0, 0]]
    assert dy[0, 0].tolist() == [[0.5, -1.0, -3.5], [0.5, -1.0, -3.5]]


def test_forward_difference_by_hand() -> None:
    x = torch.tensor([[1.0, 4.0, 9.0], [2.0, 2.0, 2.0]]).view(1, 1, 2, 3)
    assert forward_difference(x)[0].tolist() == [[[3.0, 5.0]], [[1.0, -2.0]]]


def test_magnitude_of_a_ramp_and_of_a_constant() -> None:
    row, col = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    ramp = (3 * col + 4 * row).view(1, 1, 6, 6)
    torch.testing.assert_close(
        gradient_magnitude(ramp)[..., 1:-1, 1:-1], torch.full((1, 1, 4, 4), 5.0), atol=2e-3, rtol=0
    )
    assert gradient_magnitude(torch.full((2, 3, 4, 4), 7.0)).abs().max() < 1e-9


def test_magnitude_is_of_the_channel_mean() -> None:
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(gradient_magnitude(x), gradient_magnitude(x.mean(1, keepdim=True)))
    assert gradient_magnitude(torch.cat([x, -x], 1)).max() < 1e-3
    dx, dy = central_difference((x[:, 0] + x[:, 1] + x[:, 2] + x[:, 3]).unsqueeze(1) / 4)
    torch.testing.assert_close(gradient_magnitude(x), torch.sqrt(dx**2 + dy**2 + 1e-6) - 1e-3, atol=1e-6, rtol=0)


def test_gradients() -> None:
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    for function in (central_difference, gradient_magnitude, forward_difference):
        assert torch.autograd.gradcheck(function, x)
    flat = torch.zeros(1, 1, 4, 4, requires_grad=True)
    gradient_magnitude(flat).sum().backward()
    assert torch.isfinite(flat.grad).all()
