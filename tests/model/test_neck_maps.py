"""What the detectors read: the maps of a pass, and the rows that they come from."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from ultra_dsmoe.model.neck_maps import feeding_rows, neck_maps, watched


class Head(nn.Module):
    """Reads two maps and, as a third input, text."""

    nl = 2

    def __init__(self, f: list[int], i: int = 4) -> None:
        super().__init__()
        self.f, self.i, self.calls = f, i, 0

    def forward(self, x: list[Tensor]) -> Tensor:
        self.calls += 1
        return x[0].sum()


class Net(nn.Module):
    """A net of four rows, a head and nothing else."""

    def __init__(self, f: list[int]) -> None:
        super().__init__()
        self.model = nn.ModuleList([*(nn.Identity() for _ in range(4)), Head(f)])

    def forward(self, x: list[Tensor]) -> Tensor:
        return self.model[-1](x)


INPUTS = [torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 2, 2), torch.full((1, 3, 5), 2.0)]


@pytest.mark.parametrize(
    ("f", "rows"), [([1, 3], [1, 3]), ([0, 2], [0, 2]), ([-3, -1], [1, 3]), ([2, -1], [2, 3]), ([-1, -4], [3, 0])]
)
def test_rows_counted_from_the_start_and_back_from_the_head(f: list[int], rows: list[int]) -> None:
    net = Net(f)
    assert feeding_rows(net) == [net.model[row] for row in rows]


def test_rows_of_a_head_that_is_not_the_last_number() -> None:
    """Counting back starts at the head's own number, not at the end of the list."""
    rows = [nn.Identity() for _ in range(3)]
    net = SimpleNamespace(model=[*rows, Head([-2, -1], i=2)])
    assert feeding_rows(net) == [rows[0], rows[1]]


def test_maps_without_the_text() -> None:
    net = Net([1, 3])
    with neck_maps(net) as maps:
        net(INPUTS)
    assert all(a is b for a, b in zip(maps, INPUTS[:2], strict=True))
    assert net.model[-1].calls == 1


def test_a_pass_may_end_before_the_detectors() -> None:
    net, after = Net([1, 3]), []
    with neck_maps(net, stop=True) as maps:
        net(INPUTS)
        after.append("unreachable")
    assert len(maps) == 2
    assert (net.model[-1].calls, after) == (0, [])


def test_no_hook_is_left_even_behind_an_error() -> None:
    net = Net([1, 3])
    with pytest.raises(ValueError, match="mine"), neck_maps(net):
        raise ValueError("mine")
    with neck_maps(net, stop=True):
        net(INPUTS)
    assert not net.model[-1]._forward_pre_hooks
    assert net(INPUTS) == 0


@pytest.mark.parametrize(("outputs", "calls"), [(False, 0), (True, 1)])
def test_a_net_is_watched_as_far_as_somebody_wants_its_outputs(outputs: bool, calls: int) -> None:
    net = Net([1, 3])
    with watched(net, outputs=outputs, stop=True) as seen:
        net(INPUTS)
    assert all(a is b for a, b in zip(seen.maps, INPUTS[:2], strict=True))
    assert (seen.outputs, net.model[-1].calls) == (0 if outputs else None, calls)
    assert not net.model[-1]._forward_hooks
    assert not net.model[-1]._forward_pre_hooks


def test_a_pass_that_is_watched_goes_on_where_it_is_not_stopped() -> None:
    net = Net([1, 3])
    with watched(net, outputs=False) as seen:
        net(INPUTS)
    assert (len(seen.maps), seen.outputs, net.model[-1].calls) == (2, None, 1)


def test_outputs_of_a_head_in_evaluation_are_those_before_decoding() -> None:
    net = Net([1, 3])
    net.model[-1].forward = lambda x: ("decoded", {"scores": x[0]})
    with watched(net, outputs=True) as seen:
        net(INPUTS)
    assert seen.outputs == {"scores": INPUTS[0]}
