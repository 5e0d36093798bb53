"""The attention that maps are compared by."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from ultra_dsmoe.distill import ActivationAttention, attention_mask, neck_attention
from ultra_dsmoe.nn.attention.cbam import CBAM
from ultra_dsmoe.nn.attention.dual_attention import DualAttention


def test_activation_attention_by_hand() -> None:
    x = torch.tensor([[[[1.0, -3.0]], [[0.0, 4.0]]]])  # (1, 2, 1, 2), mean of |F| 2
    over_channels, over_cells = [0.5, 3.5], [2.0, 2.0]
    weight = torch.tensor([[[[(over_channels[w] + over_cells[c]) / 2 for w in range(2)]] for c in range(2)]])
    torch.testing.assert_close(ActivationAttention().weight(x), weight)
    torch.testing.assert_close(ActivationAttention().attended(x), weight * x)


def test_activation_weights_do_not_see_the_scale() -> None:
    x = torch.randn(2, 5, 4, 3)
    weight = ActivationAttention().weight(x)
    torch.testing.assert_close(ActivationAttention().weight(x * 100), weight)
    torch.testing.assert_close(weight.mean((1, 2, 3)), torch.full((2,), 2.0))


def test_activation_attention_is_computed_in_fp32() -> None:
    x = torch.randn(2, 5, 4, 3).bfloat16()
    attention = ActivationAttention().weight(x)
    assert attention.dtype == torch.float32
    torch.testing.assert_close(attention, ActivationAttention().weight(x.float()))


def test_activation_attention_of_nothing_is_finite() -> None:
    x = torch.zeros(1, 3, 4, 4, requires_grad=True)
    attended = ActivationAttention().attended(x)
    assert not attended.any()
    attended.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_mask_by_hand() -> None:
    m = torch.tensor([[[[0.0, 1.0]], [[3.0, 3.0]]]])
    e = math.exp(1 / 20)
    expected = [[[2 / (1 + e), 2 * e / (1 + e)]], [[1.0, 1.0]]]
    torch.testing.assert_close(attention_mask(m, 20), torch.tensor([expected]))


def test_mask_has_mean_one_and_sharpens_with_falling_temperature() -> None:
    m = torch.randn(2, 3, 8, 8)
    for temperature in (1, 20):
        torch.testing.assert_close(attention_mask(m, temperature).mean((2, 3)), torch.ones(2, 3))
    gentle, sharp = attention_mask(m, 20), attention_mask(m, 1)
    assert 0.7 < gentle.min() < gentle.max() < 1.3
    assert sharp.max() > 3


def test_the_mask_of_an_attended_map_spans_what_the_paper_means() -> None:
    """A gentle mask at T = 20 for a map of unit variance; of the bare weights of a fresh attention it would be 1."""
    x, fresh = torch.randn(1, 8, 80, 80), DualAttention(8).eval()
    mask = attention_mask(fresh.attended(x), 20)
    assert 0.78 < mask.min() < 0.84
    assert 1.19 < mask.max() < 1.29
    torch.testing.assert_close(attention_mask(fresh.weight(x), 20), torch.ones_like(x))


def test_mask_of_large_values_is_finite() -> None:
    assert torch.isfinite(attention_mask(torch.full((1, 1, 4, 4), 1e4), 0.1)).all()


class Block(nn.Module):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)


@pytest.mark.parametrize("kind", [DualAttention, CBAM])
@pytest.mark.parametrize("nest", [lambda a: a, lambda a: Block(nn.Conv2d(8, 8, 1), a), lambda a: nn.Sequential(a)])
def test_a_necks_attention_is_found(nest: Any, kind: Any) -> None:
    attention = kind(8)
    assert neck_attention(nest(attention), 8) is attention


@pytest.mark.parametrize(("before", "behind"), [(DualAttention, CBAM), (CBAM, DualAttention)])
def test_the_last_attention_counts(before: Any, behind: Any) -> None:
    first, last = before(8), behind(8)
    assert neck_attention(Block(first, last), 8) is last


def test_no_attention_and_one_of_another_width_are_none() -> None:
    assert neck_attention(nn.Conv2d(8, 8, 1), 8) is None
    for kind in (DualAttention, CBAM):
        assert neck_attention(Block(kind(16), nn.Conv2d(16, 8, 1)), 8) is None
