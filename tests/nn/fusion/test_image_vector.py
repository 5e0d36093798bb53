"""ImageProjection: by hand, a constant map, rows."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from block_checks import assert_exports, assert_gradients_reach_all, assert_refuses_others, assert_round_trips, shake

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import ImageProjection, RowContext


def maps(b: int = 2, h: int = 3, w: int = 5) -> Any:
    return torch.randn(b, 8, h, w)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (3, 7, 7)])
def test_value(shape: Any) -> None:
    block, x = ImageProjection(8, 12), maps(*shape)
    mean = x.flatten(2).sum(2) / (shape[1] * shape[2])
    torch.testing.assert_close(block(x), mean @ block.linear.weight.T + block.linear.bias)


def test_a_constant_map_is_one_cell_of_it() -> None:
    block, x = ImageProjection(8, 12), maps(2, 1, 1)
    torch.testing.assert_close(block(x.expand(-1, -1, 6, 6)), block(x))


def test_gradients_round_trips_and_export() -> None:
    assert_gradients_reach_all(ImageProjection(8, 12), [maps()])
    assert_round_trips(ImageProjection(8, 12), ImageProjection(8, 12), [maps()])
    assert_exports(shake(ImageProjection(8, 12)), [maps(1)], [maps(1)])


def test_half_precision_holds_large_maps() -> None:
    block, x = ImageProjection(8, 12), 100 + maps(1, 40, 40)  # their sum overflows half precision
    torch.testing.assert_close(copy.deepcopy(block).half()(x.half()).float(), block(x), atol=0.3, rtol=1e-2)


def test_arguments_and_rows() -> None:
    assert_refuses_others(ImageProjection, c1=8, c2=12)
    plan = ImageProjection.parse(RowContext("ImageProjection", 512, []))
    assert (plan.args, plan.c2, plan.repeats) == ([512, 256], 256, 1)
    assert ImageProjection.parse(RowContext("ImageProjection", 512, [64], width=0.25)).c2 == 64


@pytest.mark.parametrize(
    ("ctx", "message"),
    [
        ({"args": [0]}, "ImageProjection c2: expected a positive integer, got 0"),
        ({"c1": [8, 8]}, "model YAML row ImageProjection: expected 'from' with 1 inputs, got 2"),
    ],
)
def test_rows_that_are_wrong(ctx: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        ImageProjection.parse(RowContext(**{"name": "ImageProjection", "c1": 8, "args": [], **ctx}))
