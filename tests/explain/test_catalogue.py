"""The catalogue: what layers bring along, what concerns several kinds, and what a user's layer adds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.explain.catalogue import CONTROL, catalogue
from ultra_dsmoe.explain.record import recording
from ultra_dsmoe.nn.base import TextFoldMixin
from ultra_dsmoe.nn.knockout import Knockout, Record, constant, hooked
from ultra_dsmoe.nn.neck.text_semantics import TextSemantics
from ultra_dsmoe.nn.registry import RowPlan, register

ALL = {
    "mixture-constant", "routing-random", "routing-fixed", "offsets-zero", "hyperbolic-constant", "text-zero",
    "text-shuffled", "text-random", "semantics-constant", "class-text-off", "hub-constant", "attention-off",
    "attention-constant", CONTROL,
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("no_trace")


def own(*knockouts: Knockout) -> Any:
    body = {"parse": staticmethod(lambda ctx: RowPlan([], 1)), "knockouts": knockouts}
    return register(type("Own", (nn.Identity,), body))


def test_everything_of_the_package_is_there_and_the_control_comes_last() -> None:
    assert set(catalogue()) >= ALL
    assert list(catalogue())[-1] == CONTROL
    assert all(entry.knockout.needs and entry.what for entry in catalogue().values())


def test_a_layer_of_a_users_adds_its_own() -> None:
    twice = Knockout("own-twice", "said twice", lambda blocks, record, seed: hooked(blocks, lambda m, a, out: 2 * out))
    of_some = Knockout("own-mean", "its mean", constant, applies=lambda block: block.training, mean=True)
    cls = own(twice, of_some)
    net, x = nn.Sequential(cls(), nn.Identity(), cls().eval()), torch.arange(4.0).view(1, 1, 2, 2)
    entries = catalogue()
    assert entries["own-twice"].knockout.needs == "an Own row"
    assert entries["own-twice"].find(net) == [net[0], net[2]]
    assert entries["own-mean"].find(net) == [net[0]]
    record = Record()
    with recording(net, record):
        net(x)
    with entries["own-twice"].switch(net, record, 0):
        assert torch.equal(net(x), 4 * x)
    with entries["own-mean"].switch(net, record, 0):
        assert torch.equal(net(x), torch.full_like(x, 1.5))
    assert torch.equal(net(x), x)


def test_only_what_needs_its_mean_is_recorded() -> None:
    cls = own(Knockout("own-off", "off", lambda blocks, record, seed: hooked(blocks, lambda m, args, out: args[0])))
    net, record = nn.Sequential(cls()), Record()
    with recording(net, record):
        net(torch.ones(1, 1, 2, 2))
    assert record == Record()


def test_a_name_of_the_shared_ones_is_taken() -> None:
    own(Knockout("hub-constant", "mine", constant))
    with pytest.raises(ConfigError, match=r"^knockouts of a layer: expected .* not taken, got hub-constant$"):
        catalogue()


def test_folded_text_is_computed_anew_only_where_the_text_changes() -> None:
    row = TextSemantics(3).eval()
    row.fold_text(None)
    net, seen = nn.Sequential(row), {}
    for name in ("text-zero", "offsets-zero"):
        with catalogue()[name].switch(net, Record(), 0):
            seen[name] = [m.folded for m in net.modules() if isinstance(m, TextFoldMixin)]
    assert seen == {"text-zero": [False], "offsets-zero": [True]}
    assert row.folded
