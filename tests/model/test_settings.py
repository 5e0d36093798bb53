"""What may be changed for one call: each block's settings are read, put back, and brought to a copy."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from ultralytics.nn.tasks import yaml_model_load

from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.model.settings import align, in_force, read, write
from ultra_dsmoe.nn.base import SettingsMixin
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE
from ultra_dsmoe.nn.neck.text_semantics import TextSemantics

Build = Callable[..., DSMoEModel]


def state(net: DSMoEModel) -> list[Any]:
    (gate,), (moe,), (row,) = net.blocks(ExpertGate), net.blocks(SparseMoE), net.blocks(TextSemantics)
    return [gate.k, gate.kept, moe.k, moe.mode, moe.kept, moe.dynamic_conv, net.options["topk"], row.bank.sum().item()]


def test_which_blocks_have_settings(build: Build) -> None:
    kinds = [type(m) for m in build().modules() if isinstance(m, SettingsMixin)]
    assert kinds == [ExpertGate, SparseMoE]


def test_everything_is_put_back_and_brought_to_a_copy(build: Build) -> None:
    net = build().eval()
    copy, before = deepcopy(net), state(net)
    own = read(net)
    net.set_topk(2)
    net.set_dynamic_conv(False)
    net.set_moe_mode("static", [[0, 3, 5]])
    (row,) = net.blocks(TextSemantics)
    row.set_bank(2 * row.bank)
    changed = state(net)
    assert all(a != b for a, b in zip(before, changed, strict=True))
    align(copy, net)
    assert state(copy) == changed
    assert copy.blocks(TextSemantics)[0].bank is not row.bank
    write(net, own)
    assert state(net) == before
    assert state(copy) == changed


def test_more_experts_than_were_kept_before_are_no_obstacle_on_the_way_back() -> None:
    """The gate inside a mixture checks kept experts by its k, which is that of the call until it is put back."""
    rows = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]]
    head = [[-1, 1, "SparseMoE", [4, 2]], [[3], 1, "Detect", ["nc"]]]
    net = DSMoEModel({"nc": 2, "backbone": rows, "head": head}, verbose=False).eval()
    net.set_moe_mode("static", [[1, 2]])
    (moe,) = net.blocks(SparseMoE)
    with in_force(net, {"dsmoe_moe": "dense", "dsmoe_topk": 4}):
        assert (moe.k, moe.mode, moe.kept, moe.gate.k, moe.gate.kept) == (4, "dense", None, 4, None)
    assert (moe.k, moe.mode, moe.kept, moe.gate.k, moe.gate.kept) == (2, "static", (1, 2), 2, (1, 2))


def test_equal_text_is_left_alone(build: Build) -> None:
    """A copy at half precision has rounded vectors, and a folded one constants of them."""
    net = build().eval()
    (row,) = net.blocks(TextSemantics)
    half = deepcopy(net).half()
    (other,) = half.blocks(TextSemantics)
    bank = other.bank
    align(half, net)
    assert other.bank is bank
    row.set_bank(row.bank.flip(0))
    align(half, net)
    assert torch.equal(other.bank, row.bank.half())


def test_a_net_without_text_has_settings_too(build: Build) -> None:
    cfg = yaml_model_load("dsmoe-n.yaml")
    cfg["dsmoe"]["text"] = False
    net = DSMoEModel(cfg, nc=3, verbose=False)
    with in_force(net, {"dsmoe_topk": 2}):
        assert net.blocks(ExpertGate)[0].k == 2
    assert net.blocks(ExpertGate)[0].k == 5


def test_settings_of_a_block_of_ones_own() -> None:
    class Block(SettingsMixin):
        run_settings = ("a", "b")

        def __init__(self) -> None:
            self.a, self.b, self.c = 1, [2], 3

    one, other = Block(), Block()
    one.a, one.b, one.c = 4, [5], 6
    other.write_settings(one.read_settings())
    assert (other.a, other.b, other.c) == (4, [5], 3)
    with pytest.raises(AttributeError):
        type("Careless", (SettingsMixin,), {"run_settings": ("missing",)})().read_settings()
