"""Each knock-out does what it says, changes the result, and gives everything back."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from net_checks import hook_count
from torch import nn
from ultralytics.nn.tasks import yaml_model_load

from ultra_dsmoe.explain.catalogue import CONTROL, applicable, catalogue
from ultra_dsmoe.explain.record import blocks, head_attentions, hub_outputs, recording
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn import registry
from ultra_dsmoe.nn.attention.cbam import CBAM
from ultra_dsmoe.nn.attention.dual_attention import DualAttention
from ultra_dsmoe.nn.base import TextFoldMixin
from ultra_dsmoe.nn.fusion.cmaf import CMAF
from ultra_dsmoe.nn.knockout import Record
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate, most_used
from ultra_dsmoe.nn.neck.hub_inject import HubInject
from ultra_dsmoe.nn.neck.hyperbolic_fusion import HyperbolicFusion
from ultra_dsmoe.nn.neck.space_broadcast import SpaceBroadcast
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE
from ultra_dsmoe.nn.neck.text_semantics import TextSemantics, permuted, random_directions

KNOCKOUTS = catalogue()
GASNET = ("MFA", "BandSplit", "FGPEM", "Allocate", "ChannelSync")  # of nets without text: tests/configs/test_gasnet.py
OF_GASNET = {knockout.name for cls, knockout in registry.knockouts() if cls.__name__ in GASNET}
OF_CLASSIFIERS = {knockout.name for knockout in CMAF.knockouts}  # tests/nn/fusion/test_cmaf.py
COMPARING = ("Reference", "FeatureDifference")  # of nets that take pairs: tests/nn/reference
OF_PAIRS = {knockout.name for cls, knockout in registry.knockouts() if cls.__name__ in COMPARING}
NAMES = [name for name in KNOCKOUTS if name not in {CONTROL, *OF_GASNET, *OF_CLASSIFIERS, *OF_PAIRS}]


@torch.no_grad()
def run(net: Any, x: Any) -> Any:
    return net(x)[0]


def recorded(net: Any, x: Any) -> Any:
    record = Record()
    with recording(net, record):
        run(net, x)
    return record


def spied(net: Any, x: Any, modules: Any, seed: int = 0, name: Any = None, record: Any = None) -> Any:
    """Return inputs and outputs of ``modules`` during a forward under a knock-out."""
    seen: dict[Any, Any] = {}

    def keep(m: Any, args: Any, out: Any) -> None:
        seen.setdefault(m, []).append((args[0], out))

    record = record or recorded(net, x)
    with KNOCKOUTS[name].switch(net, record, seed):
        handles = [m.register_forward_hook(keep) for m in modules]
        run(net, x)
    for handle in handles:
        handle.remove()
    return [seen[m][0] for m in modules]


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_every_knockout_changes_the_result_and_restores_it_to_the_bit(
    net: DSMoEModel, images: torch.Tensor, fused: bool
) -> None:
    net = net.fuse(verbose=False) if fused else net
    before, state = run(net, images), copy.deepcopy(net.state_dict())
    buffers = {name: b.clone() for name, b in net.named_buffers()}  # the folded text too
    record = recorded(net, images)
    for name in NAMES:
        with KNOCKOUTS[name].switch(net, record, 0):
            assert not torch.equal(run(net, images), before), f"{name} changes nothing"
        assert torch.equal(run(net, images), before), f"{name} left something behind"
        assert hook_count(net) == 0
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(torch.equal(b, buffers[name]) for name, b in net.named_buffers())
    assert {m.folded for m in blocks(net, TextFoldMixin)} == {fused}


@pytest.mark.parametrize("name", NAMES)
def test_an_error_in_between_restores_too(net: DSMoEModel, images: torch.Tensor, name: Any) -> None:
    net.fuse(verbose=False)
    before = run(net, images)
    with pytest.raises(KeyError), KNOCKOUTS[name].switch(net, recorded(net, images), 0):
        raise KeyError
    assert hook_count(net) == 0
    assert torch.equal(run(net, images), before)


def test_control_and_recording_change_nothing(net: DSMoEModel, images: torch.Tensor) -> None:
    before = run(net, images)
    with KNOCKOUTS[CONTROL].switch(net, Record(), 0):
        assert torch.equal(run(net, images), before)
    with recording(net, Record()):
        assert torch.equal(run(net, images), before)
    assert hook_count(net) == 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mixture-constant", SparseMoE),
        ("hyperbolic-constant", HyperbolicFusion),
        ("hub-constant", HubInject),
    ],
)
def test_constant_is_the_mean_of_all_batches(net: DSMoEModel, images: torch.Tensor, name: str, kind: Any) -> None:
    block = blocks(net, kind)[0]  # of the HubInject rows the first, which ends the hub; the others feed the levels
    record, outputs = Record(), []
    handle = block.register_forward_hook(lambda m, args, out: outputs.append(out))
    with recording(net, record):
        run(net, images[:1])
        run(net, images[1:])
    handle.remove()
    mean = torch.cat(outputs).mean((0, 2, 3))
    ((_, out),) = spied(net, images, [block], name=name, record=record)
    torch.testing.assert_close(out, mean[None, :, None, None].expand_as(out))


@pytest.mark.parametrize(("model", "row"), [("dsmoe-n", 21), ("dsmoe-p2", 21), ("yolov8n-dsmoe", 18)])
def test_the_hub_ends_behind_the_way_past_its_experts(model: str, row: int) -> None:
    """Else its knock-out would leave X, which reaches the levels all the same."""
    net = DSMoEModel(f"{model}.yaml", nc=2, verbose=False)
    assert hub_outputs(net) == [net.model[row]]


def test_random_routes_keep_the_weights_and_depend_on_the_seed_alone(net: DSMoEModel, images: torch.Tensor) -> None:
    (gate,) = blocks(net, ExpertGate)
    routing = recorded(net, images).routing(gate)
    ((_, one),) = spied(net, images, [gate], name="routing-random", seed=5)
    ((_, again),) = spied(net, images, [gate], name="routing-random", seed=5)
    ((_, other),) = spied(net, images, [gate], name="routing-random", seed=6)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert ((one > 0).sum(1) == gate.k).all()
    assert torch.equal(one.sort(1).values, routing.sort(1).values)
    assert not torch.equal(one > 0, routing > 0)
    halves = []
    with KNOCKOUTS["routing-random"].switch(net, Record(), 5):
        handle = gate.register_forward_hook(lambda m, args, out: halves.append(out))
        run(net, images[:1])
        run(net, images[1:])
    handle.remove()
    assert torch.equal(torch.cat(halves) > 0, one > 0), "the draw depends on the batch size"


def test_random_routes_reach_every_expert_equally() -> None:
    gate, hooks = ExpertGate(8, experts=4, topk=1).eval(), Record()
    holder = nn.Sequential(gate)
    with KNOCKOUTS["routing-random"].switch(holder, hooks, 0), torch.no_grad():
        out = holder(torch.randn(2000, 8, 1, 1))
    assert ((out > 0).float().mean(0) - 0.25).abs().max() < 0.04


def test_fixed_routes_are_the_most_used_experts(net: DSMoEModel, images: torch.Tensor) -> None:
    routing = torch.tensor([[0.7, 0.3, 0, 0], [0.6, 0, 0.4, 0], [0.5, 0.5, 0, 0]])
    torch.testing.assert_close(most_used(routing, 2), torch.tensor([1.8, 0.8, 0, 0]) / 2.6)
    (gate,) = blocks(net, ExpertGate)
    ((_, out),) = spied(net, images, [gate], name="routing-fixed")
    assert (out == out[:1]).all()
    assert int((out[0] > 0).sum()) == gate.k
    torch.testing.assert_close(out.sum(1), torch.ones(3))


def test_offsets_are_zero_and_nothing_else_of_the_block(
    net: DSMoEModel, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = blocks(net, SpaceBroadcast)
    calls = []
    from ultra_dsmoe.nn.neck import space_broadcast

    stock = space_broadcast.deform_sample
    monkeypatch.setattr(space_broadcast, "deform_sample", lambda *args: calls.append(args) or stock(*args))
    run(net, images)
    spied(net, images, [block], name="offsets-zero", record=Record())
    (features, offset, mask, dilation), (features0, offset0, mask0, dilation0) = calls
    assert offset.abs().max() > 0.1
    assert not offset0.any()
    for on, off in ((features, features0), (mask, mask0), (dilation, dilation0)):
        assert torch.equal(on, off)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", ["text-zero", "text-shuffled", "text-random"])
def test_changed_text_reaches_all_readers(net: DSMoEModel, images: torch.Tensor, name: str, fused: bool) -> None:
    net = net.fuse(verbose=False) if fused else net
    (row,) = blocks(net, TextSemantics)
    own, seen = row.bank.clone(), []
    record = recorded(net, images)
    readers = [*blocks(net, HyperbolicFusion), *blocks(net, ExpertGate), *blocks(net, SparseMoE)]
    before = [m.constants(row.text_constants()[0])[0].clone() for m in readers]
    with KNOCKOUTS[name].switch(net, record, 0):
        seen.append(row.bank.clone())
        t = row(images)
        for m, old in zip(readers, before, strict=True):
            assert not torch.allclose(m.constants(t)[0], old), f"{type(m).__name__} still reads the old text"
    bank = seen[0]
    if name == "text-zero":
        assert not bank.any()
    elif name == "text-shuffled":
        assert sorted(map(tuple, bank.tolist())) == sorted(map(tuple, own.tolist()))
    else:
        torch.testing.assert_close(bank.norm(dim=1), own.norm(dim=1))
        assert torch.cosine_similarity(bank, own).abs().max() < 0.2
    assert torch.equal(row.bank, own)


def test_exchanged_vectors_never_stay() -> None:
    bank = torch.arange(5.0)[:, None] + torch.zeros(5, 3)
    for seed in range(20):
        out = permuted(bank, np.random.default_rng(seed))
        assert (out != bank).all()
    assert not torch.equal(
        random_directions(bank, np.random.default_rng(0)), random_directions(bank, np.random.default_rng(1))
    )
    single = torch.stack([bank, torch.zeros_like(bank)], 1)  # classes of one description beside classes of two
    torch.testing.assert_close(random_directions(single, np.random.default_rng(0)).norm(dim=-1), single.norm(dim=-1))


def test_semantics_are_shared_by_all_classes(net: DSMoEModel, images: torch.Tensor) -> None:
    net.fuse(verbose=False)
    (row,), (fusion,) = blocks(net, TextSemantics), blocks(net, HyperbolicFusion)
    seen = spied(net, images, [row, fusion], name="semantics-constant")
    torch.testing.assert_close(seen[0][1], row.text_constants()[0].mean(0).expand(row.nc, -1))
    assert torch.equal(seen[1][0][1], seen[0][1])


def test_attention_weighs_by_one_or_by_its_mean(net: DSMoEModel, images: torch.Tensor) -> None:
    attentions = head_attentions(net)
    assert len(attentions) == 3
    for x, y in spied(net, images, attentions, name="attention-off"):
        assert torch.equal(x, y)
    record = recorded(net, images)
    own = spied(net, images, attentions, name=CONTROL)
    for m, (x, y), (x_own, _) in zip(
        attentions, spied(net, images, attentions, name="attention-constant", record=record), own, strict=True
    ):
        torch.testing.assert_close(y, m.weight(x_own).mean((0, 2, 3))[None, :, None, None] * x)


@pytest.mark.parametrize("name", ["attention-off", "attention-constant"])
def test_attention_with_a_residual_keeps_it(name: str) -> None:
    from ultralytics.nn.modules import Detect

    class Head(Detect):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.attention = DualAttention(8, residual=True)

        def forward(self, x: Any) -> Any:
            return self.attention(x)

    head, x, record = Head().eval(), torch.randn(2, 8, 4, 4), Record()
    with recording(head, record), torch.no_grad():
        head(x)
    with KNOCKOUTS[name].switch(head, record, 0), torch.no_grad():
        torch.testing.assert_close(head(x), 2 * x)  # a fresh attention weighs everything by 1


def test_a_cbam_in_the_head_is_an_attention_too() -> None:
    d = yaml_model_load("smodel-n.yaml")
    d["dsmoe"]["attention"] = "cbam"
    net, x = DSMoEModel(d, nc=2, verbose=False).eval(), torch.rand(1, 3, 64, 64)
    assert [k.name for k in applicable(net)[0]] == ["attention-off", "attention-constant", CONTROL]
    attentions = head_attentions(net)
    assert [type(m) for m in attentions] == [CBAM] * 4
    for given, y in spied(net, x, attentions, name="attention-off"):
        assert torch.equal(given, y)
    for m, (given, y) in zip(attentions, spied(net, x, attentions, name="attention-constant"), strict=True):
        torch.testing.assert_close(y, m.weight(given).mean((0, 2, 3))[None, :, None, None] * given)


def test_a_model_without_a_row_leaves_its_knockouts_out() -> None:
    rows = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]]
    head = [[-1, 1, "SparseMoE", [4, 2]], [[3], 1, "Detect", ["nc"]]]
    net = DSMoEModel({"nc": 2, "backbone": rows, "head": head}, verbose=False).eval()
    fitting, notes = applicable(net)
    assert [k.name for k in fitting] == ["routing-random", "routing-fixed", "mixture-constant", CONTROL]
    assert len(notes) == len([k for k in KNOCKOUTS.values() if k.task == "detect"]) - 4
    assert not any("CMAF" in note for note in notes), "what only classifiers have is no loss to a detector"
    assert any("CMAF" in note for note in applicable(net, ["fusion-vlm-constant"])[1]), "unless it is asked for"
    assert "hub-constant does not apply: the model has not a FeatureAggregation row" in notes
    x = torch.rand(2, 3, 64, 64)
    before, record = run(net, x), recorded(net, x)
    for knockout in fitting[:-1]:
        with knockout.switch(net, record, 0):
            assert not torch.equal(run(net, x), before), knockout.name
    assert [k.name for k in applicable(net, ["hub-constant", "routing-fixed"])[0]] == ["routing-fixed"]
