"""The box distribution's expectation: by hand, against the host's decoder, at the edges of its range."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from block_checks import assert_exports
from ultralytics.nn.modules.block import DFL

from ultra_dsmoe.nn.head.dfl import BoxDistribution

BINS = 16


def make(bins: int = BINS) -> BoxDistribution:
    return BoxDistribution(DFL(bins).conv)


@pytest.mark.parametrize("b", [1, 3])
@pytest.mark.parametrize("bins", [4, 16])
def test_as_the_hosts(b: int, bins: int) -> None:
    x = 3 * torch.randn(b, 4 * bins, 7)
    got = make(bins)(x)
    assert got.shape == (b, 4, 7)
    torch.testing.assert_close(got, DFL(bins)(x))


def test_value_by_hand() -> None:
    """Left, top, right and bottom each have a distribution of their own; equal bins mean the middle."""
    x = torch.zeros(1, 4 * BINS, 2)
    x[0, 3, 0] = 50.0  # left of the first anchor: all in bin 3
    x[0, BINS + 15, 0] = 50.0
    x[0, 2 * BINS : 2 * BINS + 2, 0] = 50.0  # bins 0 and 1 alike
    wanted = torch.tensor([[3.0, 7.5], [15.0, 7.5], [0.5, 7.5], [7.5, 7.5]])
    torch.testing.assert_close(make()(x)[0], wanted)


def test_a_shift_changes_nothing_and_nothing_overflows() -> None:
    x = torch.randn(2, 4 * BINS, 5)
    torch.testing.assert_close(make()(x + 30), make()(x), atol=1e-4, rtol=0)
    huge = make()(torch.tensor([6e4, -6e4, 0.0, 1.0]).repeat(16).view(1, 64, 1))
    assert torch.isfinite(huge).all()
    half = make().half()((x * 1000).half())  # without the largest taken off, exp overflows at 11.1
    assert torch.isfinite(half).all()
    assert half.dtype == torch.float16


def test_moments_weigh_and_count() -> None:
    moments = make().moments(torch.zeros(1, dtype=torch.float64))
    assert moments.dtype == torch.float64
    assert moments.tolist() == [[float(i) for i in range(BINS)], [1.0] * BINS]


def test_gradcheck() -> None:
    block = make(4).double()
    assert torch.autograd.gradcheck(block, torch.randn(1, 16, 3, dtype=torch.float64, requires_grad=True))
    assert [name for name, p in block.named_parameters() if p.requires_grad] == []


def test_round_trips() -> None:
    block, x = make(), torch.randn(2, 4 * BINS, 5)
    assert list(block.state_dict()) == ["conv.weight"]  # with the head's name before it, the host's own
    buffer = io.BytesIO()
    torch.save(block, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(block), torch.load(buffer, weights_only=False)):
        assert torch.equal(twin(x), block(x))
    assert_exports(block, [x], [torch.randn(2, 4 * BINS, 5)])
