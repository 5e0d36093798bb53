"""Pick: the entry that was asked for, and rows that have none."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from block_checks import assert_exports

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import Pick, RowContext


def maps(b: int = 1) -> list[torch.Tensor]:
    return [torch.randn(b, c, 9 - c, 5) for c in (2, 4, 6)]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_value(index: int) -> None:
    x = maps()
    assert Pick(index)(x) is x[index]


def test_the_first_by_default() -> None:
    x = maps()
    assert Pick()(x) is x[0]


@pytest.mark.parametrize(("args", "index"), [([], 0), ([0], 0), ([2], 2)])
def test_parse_rule(args: list[int], index: int) -> None:
    plan = Pick.parse(RowContext("Pick", [16, 24, 40], args))
    assert (plan.args, plan.c2, plan.kwargs, plan.repeats) == ([index], [16, 24, 40][index], {}, 1)


@pytest.mark.parametrize("index", [-1, 3, 1.0, True, "1", None])
def test_an_index_that_is_none(index: object) -> None:
    with pytest.raises(ConfigError, match=r"^model YAML row Pick: expected an index from 0 to 2, got "):
        Pick.parse(RowContext("Pick", [16, 24, 40], [index]))


@pytest.mark.parametrize("index", [-1, 1.0, True, "1", None])
def test_a_block_of_no_index(index: object) -> None:
    with pytest.raises(ConfigError, match=r"^Pick index: expected "):
        Pick(index)  # type: ignore[arg-type]


@pytest.mark.parametrize("c1", [16, [[16, 24], 40]])
def test_a_row_that_returns_no_list(c1: object) -> None:
    with pytest.raises(ConfigError, match=r"expected 'from' with one row that returns a list of maps, got "):
        Pick.parse(RowContext("Pick", c1, [0]))  # type: ignore[arg-type]


def test_gradient_reaches_its_map_alone() -> None:
    x = [m.requires_grad_() for m in maps()]
    Pick(1)(x).sum().backward()
    assert [m.grad is not None for m in x] == [False, True, False]


def test_round_trips() -> None:
    x, block = maps(), Pick(2)
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert twin(x) is x[2]
    assert_exports(Pick(1), [maps()], [maps()])
