"""TinyViT's attention without its cache: the same values, never stale ones, nothing kept between passes."""

from __future__ import annotations

import copy

import pytest
import torch
from block_checks import assert_exports, assert_gradients_reach_all, shake
from timm.models.tiny_vit import Attention

from ultra_dsmoe.nn.backbone.window_attention import WindowAttention, without_cache

C, KEYS, HEADS, SIDE = 24, 8, 3, 4


@pytest.fixture
def stock() -> Attention:
    stock = Attention(C, KEYS, HEADS, attn_ratio=2, resolution=(SIDE, SIDE))
    shake(stock, 0.3)
    return stock


def evaluated(block: Attention) -> Attention:
    block.eval()  # timm's returns nothing
    return block


def tokens(b: int = 2) -> torch.Tensor:
    return torch.randn(b, SIDE * SIDE, C)


@pytest.mark.parametrize("b", [1, 5])
def test_value_is_timms(stock: Attention, b: int) -> None:
    block, x = evaluated(without_cache(stock)), tokens(b)
    torch.testing.assert_close(block(x), evaluated(stock)(x))
    assert block(x).shape == (b, SIDE * SIDE, C)


def test_settings_and_weights_are_taken_over(stock: Attention) -> None:
    block = without_cache(stock)
    assert isinstance(block, WindowAttention)
    for name in ("num_heads", "key_dim", "attn_ratio", "resolution", "val_dim"):
        assert getattr(block, name) == getattr(stock, name), name
    assert block.state_dict().keys() == stock.state_dict().keys()
    assert all(torch.equal(v, stock.state_dict()[k]) for k, v in block.state_dict().items())
    block.attention_biases.data.fill_(7)
    assert stock.attention_biases.abs().max() < 7, "a copy"


def test_biases_depend_on_the_distance_of_two_tokens_alone(stock: Attention) -> None:
    biases = without_cache(stock).get_attention_biases(torch.device("cpu"))
    assert biases.shape == (HEADS, SIDE * SIDE, SIDE * SIDE)
    row, col = torch.arange(SIDE * SIDE) // SIDE, torch.arange(SIDE * SIDE) % SIDE
    seen: dict[tuple[int, int], torch.Tensor] = {}
    for i in range(SIDE * SIDE):
        for j in range(SIDE * SIDE):
            away = (int((row[i] - row[j]).abs()), int((col[i] - col[j]).abs()))
            assert torch.equal(seen.setdefault(away, biases[:, i, j]), biases[:, i, j])
    assert len(seen) == SIDE * SIDE


def test_weights_that_change_in_evaluation_are_seen(stock: Attention) -> None:
    block, x = evaluated(without_cache(stock)), tokens()
    before = block(x)
    with torch.no_grad():
        block.attention_biases.add_(torch.randn_like(block.attention_biases))
    assert (block(x) - before).abs().max() > 1e-3
    assert torch.equal(evaluated(without_cache(block))(x), block(x))


def test_nothing_is_kept_so_copies_and_gradients_are_sound(stock: Attention) -> None:
    block = without_cache(stock)
    assert_gradients_reach_all(block, [tokens()])
    evaluated(block)(tokens().requires_grad_())
    twin, x = copy.deepcopy(block), tokens()  # a tensor with a gradient on the module would not copy
    assert torch.equal(twin(x), block(x))


def test_export(stock: Attention) -> None:
    assert_exports(without_cache(stock), [tokens()], [tokens()])
