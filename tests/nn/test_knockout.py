"""What switches lean on: running means, hooks that go away, the mean in place of an output."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import nn

from ultra_dsmoe.nn.knockout import Knockout, Mean, Record, constant, hooked


def test_the_mean_is_over_all_batches_images_and_positions() -> None:
    mean, maps = Mean(), [torch.randn(2, 3, 4, 5), torch.randn(1, 3, 2, 2)]
    for x in maps:
        mean.add(x)
    expected = torch.cat([x.transpose(0, 1).flatten(1) for x in maps], 1).mean(1)
    out = mean.like(torch.zeros(2, 3, 1, 2, dtype=torch.float16))
    assert (out.shape, out.dtype) == ((2, 3, 1, 2), torch.float16)
    torch.testing.assert_close(out, expected.half()[None, :, None, None].expand_as(out))
    out[0] = 7  # a map of its own, not a view
    assert not (mean.like(torch.zeros(1, 3, 1, 1)) == 7).any()


@pytest.mark.parametrize("shape", [(3,), (5, 3)])
def test_vectors_and_cells_have_their_channels_last(shape: tuple[int, ...]) -> None:
    mean, batches = Mean(), [torch.randn(n, *shape) for n in (2, 1)]
    for x in batches:
        mean.add(x)
    out = mean.like(torch.zeros(4, *shape))
    expected = torch.cat([x.reshape(-1, 3) for x in batches]).mean(0)
    torch.testing.assert_close(out, expected.expand(4, *shape))


def test_half_precision_and_training_do_not_count() -> None:
    """More cells than half precision can count to, of a net that could be trained."""
    mean = Mean()
    mean.add(torch.full((1, 2, 400, 400), 0.5, dtype=torch.float16, requires_grad=True))
    assert mean.like(torch.zeros(1, 2, 1, 1)).flatten().tolist() == [0.5, 0.5]
    assert mean.total is not None
    assert not mean.total.requires_grad


def test_routing_is_of_all_batches_in_order() -> None:
    gate = nn.Identity()
    record = Record(gates={gate: [torch.zeros(2, 4), torch.ones(1, 4)]})
    assert record.routing(gate).sum(1).tolist() == [0, 0, 4]


def test_hooks_change_the_output_and_go_away_behind_an_error_too() -> None:
    blocks, x = [nn.Identity(), nn.Identity()], torch.ones(1)
    with hooked(blocks, lambda m, args, out: out + 1):
        assert [block(x).item() for block in blocks] == [2, 2]
    with pytest.raises(KeyError), hooked(blocks, lambda m, args, out: out + 1):
        raise KeyError
    assert [block(x).item() for block in blocks] == [1, 1]


def test_constant_gives_each_block_its_own_mean() -> None:
    blocks, record = [nn.Identity(), nn.Identity()], Record()
    for value, block in enumerate(blocks, 1):
        record.means[block] = Mean()
        record.means[block].add(torch.full((1, 2, 3, 3), float(value)))
    with constant(blocks, record, 0):
        assert [block(torch.zeros(1, 2, 1, 1)).tolist() for block in blocks] == [[[[[1]], [[1]]]], [[[[2]], [[2]]]]]


def test_a_knockout_applies_to_all_blocks_unless_it_says_otherwise() -> None:
    knockout = Knockout("a", "b", constant)
    assert knockout.applies(None)
    assert (knockout.needs, knockout.mean, knockout.text) == ("", False, False)
    with pytest.raises(FrozenInstanceError):
        knockout.mean = True  # type: ignore[misc]
