"""The attentions by name: what all of them offer, and what is refused."""

from typing import Any

import pytest
import torch
from block_checks import shake
from torch import nn

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import CBAM, DualAttention
from ultra_dsmoe.nn.attention.kinds import ATTENTION, ATTENTIONS, KINDS, USUAL


def test_names_are_the_papers() -> None:
    assert {"da": DualAttention, "cbam": CBAM, "none": nn.Identity} == ATTENTIONS
    assert USUAL == "da"
    assert (DualAttention, CBAM) == KINDS


@pytest.mark.parametrize("name", ATTENTIONS)
def test_each_is_built_from_a_width_and_keeps_the_shape(name: Any) -> None:
    x = torch.randn(2, 24, 5, 3)
    assert ATTENTIONS[name](24)(x).shape == x.shape


@pytest.mark.parametrize("kind", KINDS)
def test_what_pictures_and_distiller_ask_of_an_attention(kind: Any) -> None:
    block, x = shake(kind(16), 0.3).eval(), torch.randn(2, 16, 6, 7)
    with torch.no_grad():
        weight = block.weight(x)
        assert weight.shape == x.shape
        assert 0 < weight.min() < weight.max() < 2
        torch.testing.assert_close(block.attended(x), weight * x)
        torch.testing.assert_close(block(x), block.attended(x))
        assert (block(x) - x).abs().max() > 1e-3
    assert block.channels == 16
    assert block.residual is False


@pytest.mark.parametrize("wrong", ["DA", "", None, True, ["da"]])
def test_others_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"^dsmoe\.attention: expected one of da, cbam, none"):
        ATTENTION.checked("dsmoe.attention", "attention", {"attention": wrong})


def test_the_option_has_a_usual_value() -> None:
    assert ATTENTION.checked("Row.attention", "attention", {}) == USUAL
    assert ATTENTION.checked("Row.attention", "attention", {"attention": "cbam"}) == "cbam"
