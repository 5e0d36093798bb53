"""Attentions with fresh weights: what they choose, and what of theirs is a mean; the equations are in test_cmaf."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from ultra_dsmoe.nn.fusion.cross_attention import CellAttention, ChannelAttention, Norm


def test_texts_choose_cells_from_the_start() -> None:
    """With torch's usual start of the layers the weights of 49 cells are all but equal."""
    block, weights = CellAttention(64, 256, 4), []
    block.softmax.register_forward_hook(lambda m, args, out: weights.append(out))
    x, texts = torch.randn(64, 64, 7, 7), torch.randn(64, 2, 256)
    seen = block(x, texts) - texts
    assert weights[0].shape == (64, 4, 2, 49)
    assert (weights[0].amax(-1) * 49).mean() > 4
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(64, 4, 2))
    assert not torch.allclose(seen[:, 0], seen[:, 1], atol=0.1)  # two texts see the map differently
    for layer in (block.query, block.key):
        layer.reset_parameters()
    block(x, texts)
    assert (weights[1].amax(-1) * 49).mean() < 3


def test_channels_of_vectors_attend_to_their_mean() -> None:
    """What the paper's form hands on is the mean of V, head by head: 99.8 %."""
    block, (q, k, v) = ChannelAttention(256, 4), (torch.randn(256, 256) for _ in range(3))
    with torch.no_grad():
        c = block(q, k, v).unflatten(1, (4, 64))
        mean = block.value(v).unflatten(1, (4, 64)).mean(2, keepdim=True)
    share = 1 - ((c - mean).square().sum() / c.square().sum()).item()
    assert share == pytest.approx(0.998, abs=5e-4)


def test_no_projection_no_choice() -> None:
    """A limit: with queries of zero every head hands on its mean, of cells and of channels."""
    cells, channels = CellAttention(8, 12, 3), ChannelAttention(12, 3)
    for block in (cells, channels):
        torch.nn.init.zeros_(block.query.weight)
        torch.nn.init.zeros_(block.query.bias)
    x, texts = torch.randn(2, 8, 3, 3), torch.randn(2, 2, 12)
    mean = cells.value(cells.norm(x.flatten(2).transpose(1, 2))).mean(1, keepdim=True)
    torch.testing.assert_close(cells(x, texts), texts + mean)
    q, k, v = (torch.randn(2, 12) for _ in range(3))
    mean = channels.value(v).unflatten(1, (3, 4)).mean(2, keepdim=True).expand(-1, -1, 4).flatten(1)
    torch.testing.assert_close(channels(q, k, v), mean)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_norm_in_half_precision(size: Any) -> None:
    norm, x = Norm(64), size * torch.randn(3, 64)
    got = copy.deepcopy(norm).half()(x.half())
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), norm(x), atol=1e-2, rtol=1e-2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(norm(x), torch.nn.functional.layer_norm(x, (64,), norm.weight, norm.bias, norm.eps))
