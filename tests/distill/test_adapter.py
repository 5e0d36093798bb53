"""The adapter: dimensions, start, gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ultra_dsmoe.distill import Adapter


def test_equal_widths_start_at_the_identity() -> None:
    x = torch.randn(2, 5, 4, 3)
    assert torch.equal(Adapter(5, 5)(x, (4, 3)), x)


def test_another_width_and_size() -> None:
    adapter, x = Adapter(3, 7), torch.randn(2, 3, 4, 4)
    assert torch.equal(adapter(x, (4, 4)), adapter.conv(x))
    got = adapter(x, (8, 6))
    assert got.shape == (2, 7, 8, 6)
    assert torch.equal(got, F.interpolate(adapter.conv(x), (8, 6), mode="bilinear"))


def test_it_learns() -> None:
    adapter, x = Adapter(3, 7), torch.randn(1, 3, 2, 2)
    adapter(x, (2, 2)).square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in adapter.parameters())
