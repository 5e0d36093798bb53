"""TextAdapter: by hand, unit vectors beside recorded numbers, texts that are not there, rows."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_exports, assert_gradients_reach_all, assert_refuses_others, assert_round_trips, shake

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import RowContext, TextAdapter


def unit(b: int = 2, width: int = 20) -> Any:
    return F.normalize(torch.randn(b, width), dim=1)


def small(**given: Any) -> Any:
    return TextAdapter(20, 12, 6, **given)


@pytest.mark.parametrize("b", [1, 3])
def test_value(b: int) -> None:
    block, v = shake(small()), unit(b)
    got = block(v)
    v = v * math.sqrt(20)
    hidden = v @ block.down.weight.T + block.down.bias
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    v = v + hidden @ block.up.weight.T + block.up.bias
    torch.testing.assert_close(got, v @ block.linear.weight.T + block.linear.bias, atol=1e-5, rtol=1e-5)
    assert got.shape == (b, 12)


def test_numbers_are_not_scaled_with_the_text() -> None:
    block, plain = shake(small(numbers=4)), shake(small())
    plain.load_state_dict(block.state_dict())
    v = torch.cat([unit(2, 16), torch.randn(2, 4)], 1)
    seen = torch.cat([4 * v[:, :16], v[:, 16:]], 1)  # the root of 16
    torch.testing.assert_close(block(v), plain(seen / math.sqrt(20)))


def test_texts_outweigh_what_a_fresh_layer_adds() -> None:
    """Guard against inert text: vectors of unit length must tell their images apart from the start."""
    z = TextAdapter(384)(unit(200, 384))
    varies = z.var(0).mean() / z.square().mean()
    assert varies > 0.9
    numbered = TextAdapter(394, numbers=10)
    v = torch.cat([unit(200, 384), torch.randn(200, 10)], 1)
    still = v.clone()
    still[:, :384] = v[:, :384].mean(0)
    assert (numbered(v) - numbered(still)).var() > 0.9 * numbered(v).var()


def test_the_entry_of_a_list_and_none() -> None:
    block, v = small(index=2), unit()
    assert torch.equal(block([torch.zeros(2, 3, 4, 4), None, v]), block(v))
    assert block([torch.zeros(2, 3, 4, 4), v, None]) is None
    assert block(None) is None


def test_gradients_round_trips_and_export() -> None:
    assert_gradients_reach_all(small(numbers=3), [unit()])
    assert_round_trips(small(numbers=3), small(numbers=3), [unit()])
    assert_exports(shake(small(numbers=3)), [unit(1)], [unit(1)])


def test_half_precision() -> None:
    block, v = TextAdapter(384), unit(2, 384)
    torch.testing.assert_close(copy.deepcopy(block).half()(v.half()).float(), block(v), atol=1e-2, rtol=1e-2)


def test_arguments() -> None:
    assert_refuses_others(TextAdapter, c1=20, c2=12, hidden=6)
    for index in (0, 3, True, "1"):
        with pytest.raises(ConfigError, match=r"^TextAdapter index: expected one of 1, 2.*, got"):
            small(index=index)
    for numbers in (-1, 20, 1.0):
        with pytest.raises(ConfigError, match=r"^TextAdapter numbers: expected a whole number from 0 to 19, got"):
            small(numbers=numbers)


def test_parse_rule() -> None:
    options = {"text_numbers": 7}
    plan = TextAdapter.parse(RowContext("TextAdapter", [3, 64, 71], [1], options=options, width=0.25))
    assert (plan.args, plan.c2, plan.kwargs) == ([64, 256, 64], 256, {"index": 1, "numbers": 0})
    plan = TextAdapter.parse(RowContext("TextAdapter", [3, 64, 71], [2, 128, 32], options=options))
    assert (plan.args, plan.c2, plan.kwargs) == ([71, 128, 32], 128, {"index": 2, "numbers": 7})


@pytest.mark.parametrize(
    ("ctx", "message"),
    [
        ({"args": [0]}, "TextAdapter index: expected one of 1, 2, got 0"),
        ({"args": [3]}, "TextAdapter index: expected one of 1, 2, got 3"),
        ({"args": []}, "TextAdapter index: expected one of 1, 2, got None"),
        ({"args": [1, "x"]}, "TextAdapter c2: expected a positive integer, got x"),
        ({"c1": 64}, "model YAML row TextAdapter: expected 'from' with one SplitText row, got 64"),
        ({"c1": [3, 64]}, "model YAML row TextAdapter: expected 'from' with one SplitText row, got [3, 64]"),
        (
            {"c1": [[3, 64, 64], 8, 8]},
            "model YAML row TextAdapter: expected 'from' with one SplitText row, got [[3, 64, 64], 8, 8]",
        ),
    ],
)
def test_rows_that_are_wrong(ctx: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        TextAdapter.parse(RowContext(**{"name": "TextAdapter", "c1": [3, 64, 64], "args": [1], **ctx}))
