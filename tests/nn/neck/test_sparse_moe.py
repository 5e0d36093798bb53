"""SparseMoE: its executions against plain loops, work that grows with k, re-drawing."""

import math
import pickle
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_gradients_reach_all, assert_refuses_others, assert_round_trips, shake
from moe_checks import C, D, N, experts_by_loop, gate_of, inputs, moe_of, random_gate, work_of
from torch import nn

from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.nn import ExpertGate, RowContext, SparseMoE


def three_ways(moe: Any, x: Any, text: Any, g: Any) -> Any:
    (bias,) = moe.text_constants(text)
    return moe._pairs(x, g, bias), moe._gather(x, g, bias), moe._dense(x, g, bias)


@pytest.mark.parametrize(("b", "h", "w"), [(1, 1, 1), (2, 7, 5), (3, 4, 9)])
def test_shape(b: int, h: int, w: int) -> None:
    x = inputs(random_gate(b, 3), h, w)
    moe = moe_of()
    for mode in ("gather", "dense"):
        moe.set_mode(mode)
        assert moe.eval()(x).shape == x[0].shape
    if b * h * w > 1:
        assert moe.train()(x).shape == x[0].shape
    alone = SparseMoE(C, N, 2, own_gate=True).eval()
    assert alone(x[0]).shape == x[0].shape


def test_arguments() -> None:
    assert_refuses_others(SparseMoE, c=8, text_width=16)


def test_errors() -> None:
    for experts in (2, 0, 3.0, "all"):
        with pytest.raises(ConfigError, match="experts: expected a whole number of at least 3"):
            SparseMoE(C, experts, 1)
    for topk in (0, 8, 1.5, "most"):
        with pytest.raises(ConfigError, match="topk: expected 'auto' or an integer from 1 to 7"):
            moe_of(topk)
        with pytest.raises(ConfigError, match="topk: expected 'auto' or an integer from 1 to 7"):
            moe_of().set_topk(topk)
    with pytest.raises(ConfigError, match="moe mode: expected one of gather, static, dense, got loop"):
        moe_of(mode="loop")
    moe = moe_of()
    with pytest.raises(ConfigError, match=r"moe mode: expected static with the experts to keep.*, got static without"):
        moe.set_mode("static")
    with pytest.raises(ConfigError, match=r"or another mode, got gather with \[1, 2, 3\]"):
        moe.set_mode("gather", [1, 2, 3])
    for kept in ([1, 2], [1, 1, 2], [4, 5, 7], [-1, 2, 3]):
        with pytest.raises(ConfigError, match="kept experts: expected at least 3 different numbers from 0 to 6"):
            moe.set_mode("static", kept)
    assert (moe.mode, moe.kept) == ("gather", None)
    moe.set_mode("static", [1, 2, 3])
    with pytest.raises(ConfigError, match="kept experts: expected at least 4"):
        moe.set_topk(4)
    assert moe.k == 3
    moe.set_mode("gather")
    x, text, g = inputs(random_gate(2, 3))
    for wrong in (g[:1], g[:, :5]):
        with pytest.raises(ShapeError, match=r"SparseMoE gate: expected shape \(2, 7\), got"):
            moe([x, text, wrong])


ROUTES = {
    "both universal": [[0, 1, 4], [0, 1, 2]],
    "no universal": [[2, 3, 6], [4, 5, 3]],
    "one each": [[0, 4, 5], [1, 4, 6]],
    "mixed": [[0, 1, 2], [3, 4, 5], [6, 2, 0], [1, 3, 6]],
}


@pytest.mark.parametrize("name", ROUTES)
def test_value_of_the_three_executions(name: Any) -> None:
    moe, (x, text, g) = shake(moe_of()), inputs(gate_of(*ROUTES[name]))
    wanted = experts_by_loop(moe, x, text, g)
    for got in three_ways(moe, x, text, g):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("k", range(1, N + 1))
def test_executions_agree_for_every_k(k: int) -> None:
    moe, (x, text, g) = shake(moe_of(k)), inputs(random_gate(4, k))
    pairs, gather, dense = three_ways(moe, x, text, g)
    torch.testing.assert_close(pairs, dense, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gather, dense, atol=1e-5, rtol=1e-5)


def test_forward_uses_what_the_mode_says_and_normalises() -> None:
    moe, (x, text, g) = shake(moe_of()).eval(), inputs(random_gate(2, 3))
    bn, raw = moe.bn, experts_by_loop(moe, x, text, g)
    wanted = F.batch_norm(raw, bn.running_mean, bn.running_var, bn.weight, bn.bias)
    calls = []

    def watch(way: Any) -> None:
        run = getattr(moe, way)
        setattr(moe, way, lambda *args: calls.append(way) or run(*args))

    for way in ("_pairs", "_gather", "_dense"):
        watch(way)
    for mode in ("gather", "dense"):
        moe.set_mode(mode)
        torch.testing.assert_close(moe([x, text, g]), wanted, atol=1e-5, rtol=1e-5)
    moe.train()
    moe.bn.eval()
    torch.testing.assert_close(moe([x, text, g]), wanted, atol=1e-5, rtol=1e-5)
    assert calls == ["_gather", "_dense", "_pairs"]


def test_one_expert_per_image_is_that_expert_alone() -> None:
    moe, (x, text, _) = shake(moe_of(1)), inputs(torch.zeros(N, N))
    g = torch.eye(N)
    bias = moe.text_constants(text)[0]
    for got in three_ways(moe, x, text, g):
        torch.testing.assert_close(got[0:1], moe.local(x[0:1]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got[1:2], moe.wide(x[1:2]), atol=1e-5, rtol=1e-5)
        for n in range(2, N):
            alone = moe.cross(x[n : n + 1].unsqueeze(1), torch.tensor([[n - 2]]), bias)[:, 0]
            torch.testing.assert_close(got[n : n + 1], alone, atol=1e-5, rtol=1e-5)


def test_unchosen_experts_have_no_say() -> None:
    moe, (x, text, g) = moe_of(), inputs(gate_of([0, 2, 3], [2, 3, 4]))
    before = three_ways(moe, x, text, g)
    with torch.no_grad():
        moe.wide.mix.weight.add_(1)
        for p in moe.cross.stacked():
            p[3:] += 1  # experts 5 and 6
    for got, wanted in zip(three_ways(moe, x, text, g), before, strict=True):
        torch.testing.assert_close(got, wanted)


def test_without_text() -> None:
    moe = shake(SparseMoE(C, N, 3))
    x, _, g = inputs(random_gate(2, 3))
    for got in three_ways(moe, x, None, g):
        torch.testing.assert_close(got, experts_by_loop(moe, x, None, g), atol=1e-5, rtol=1e-5)


def test_training_computes_the_chosen_pairs_only() -> None:
    n, k, b, h = 32, 5, 16, 12
    moe = SparseMoE(C, n, k, text_width=D)
    x, text, g = inputs(random_gate(b, k, n), h, h)
    cost = {0: 14 * C + C * C, 1: 3 * C * C}  # multiply-adds per position of the local and the global expert
    ideal = sum(cost.get(e, C * C + 9 * C) for row in g for e in row.nonzero().flatten().tolist()) * 2 * h * h
    assert ideal <= work_of(moe.train(), [x, text, g]) <= 1.2 * ideal
    everything = (sum(cost.values()) + (n - 2) * (C * C + 9 * C)) * 2 * h * h * b
    moe.eval().set_mode("dense")
    assert work_of(moe, [x, text, g]) >= everything > 5 * ideal


@pytest.mark.parametrize("k", [1, 3, N])
@pytest.mark.parametrize(("h", "w"), [(1, 1), (2, 5), (6, 3)])
def test_without_dynamic_convolution_nothing_changes(k: Any, h: int, w: int) -> None:
    moe = shake(moe_of(k)).eval()
    x = inputs(random_gate(3, k), h, w)
    for mode in ("gather", "dense"):
        moe.set_mode(mode)
        moe.dynamic_conv = True
        wanted = moe(x)
        moe.dynamic_conv = False
        torch.testing.assert_close(moe(x), wanted, atol=1e-5, rtol=1e-5)


def test_gather_work_grows_with_k() -> None:
    moe = SparseMoE(C, 32, 5, text_width=D).eval()
    work = []
    for k in (1, 2, 4, 8):
        moe.set_topk(k)
        work.append(work_of(moe, inputs(random_gate(2, k, 32))))
    steps = [(after - before) / more for before, after, more in zip(work, work[1:], (1, 2, 4), strict=False)]
    # two images of 5 x 6 positions, one expert more: mixing, 3x3 kernel, weighting
    assert steps[0] == 2 * 30 * 2 * (C * C + 9 * C + C)
    assert steps == [steps[0]] * 3


def test_set_topk_reaches_the_own_gate() -> None:
    moe = SparseMoE(C, N, 2, own_gate=True)
    moe.set_topk(4)
    assert (moe.k, moe.gate.k) == (4, 4)
    moe.set_topk("auto")
    assert moe.k == moe.gate.k == math.ceil(math.log2(N))
    x = torch.randn(3, C, 5, 5)
    wanted = moe.eval()(x)
    moe.set_mode("dense")
    torch.testing.assert_close(moe(x), wanted, atol=1e-5, rtol=1e-5)


def test_k_is_the_gates_in_copies_too() -> None:
    net = nn.ModuleList([nn.Identity(), ExpertGate(C, N, 3), SparseMoE(C, N, None)])
    net[2].connect([net[0], net[1]])
    assert set(net.state_dict()) == {*(f"1.{k}" for k in net[1].state_dict()), *(f"2.{k}" for k in net[2].state_dict())}
    for own in (net, deepcopy(net), pickle.loads(pickle.dumps(net))):
        own[1].set_topk(2)
        assert own[2].router is own[1]
        assert own[2].k == 2
        own[2].set_topk(4)
        assert own[1].k == 4
        own[1].set_topk(3)
    net[1].set_topk(2)
    assert net[2].k == 2


def test_a_row_that_reads_a_gate_has_no_k_beside_it() -> None:
    gate = ExpertGate(C, N, 3)
    SparseMoE(C, N, 3).connect([gate])
    with pytest.raises(ConfigError, match="topk in model YAML row SparseMoE: expected none, or 3 as its gate has, got"):
        SparseMoE(C, N, 2).connect([gate])
    with pytest.raises(ConfigError, match="expected an ExpertGate as its third input, or a topk, got neither"):
        SparseMoE(C, N, None).connect([nn.Identity()])
    other = SparseMoE(C, N, 2)
    other.connect([nn.Identity()])
    assert (other.router, other.k) == (None, 2)


def test_gradients() -> None:
    assert_gradients_reach_all(shake(moe_of(N)), [inputs(random_gate(3, N))])
    alone = shake(SparseMoE(C, N, N, own_gate=True))
    assert_gradients_reach_all(alone, [torch.randn(4, C, 5, 5) + torch.randn(4, C, 1, 1)])
    wild = [100 * t for t in inputs(random_gate(3, 3))[:2]]
    moe, leaves = moe_of(), [t.requires_grad_() for t in wild]
    moe([*leaves, random_gate(3, 3)]).square().sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in leaves)


def test_gradients_of_the_executions_agree() -> None:
    moe, (x, text, g) = shake(moe_of()), inputs(gate_of(*ROUTES["mixed"]))
    weight, grads = torch.randn_like(x), []
    chosen = g > 0
    for way in range(3):
        moe.zero_grad()
        leaves = [t.clone().requires_grad_() for t in (x, text, g)]
        (three_ways(moe, *leaves)[way] * weight).sum().backward()
        named = {name: p.grad for name, p in moe.named_parameters() if p.grad is not None}
        named.update(x=leaves[0].grad, text=leaves[1].grad, gate=leaves[2].grad * chosen)
        grads.append(named)
    assert grads[0].keys() == grads[1].keys() == grads[2].keys()
    for name in grads[0]:
        for other in grads[1:]:
            torch.testing.assert_close(
                grads[0][name], other[name], atol=1e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_unchosen_experts_get_no_gradient() -> None:
    moe = moe_of()
    moe(inputs(gate_of([0, 2, 4], [2, 4, 6]))).square().sum().backward()
    moved = [n + 2 for n in range(N - 2) if moe.cross.w_f.grad[n].abs().max() > 0]
    assert moved == [2, 4, 6]
    assert moe.wide.mix.weight.grad is None
    assert moe.local.row.weight.grad.abs().max() > 0


def test_half_precision() -> None:
    moe, x = shake(moe_of()).eval(), inputs(random_gate(2, 3))
    wanted = moe(x)
    for folded in (False, True):
        if folded:
            moe.float().fold_text(x[1])
        for mode, kept in (("gather", None), ("dense", None), ("static", range(N))):
            moe.set_mode(mode, kept)
            moe.dynamic_conv = folded
            got = moe.half()([t.half() for t in x])
            assert got.dtype == torch.float16
            torch.testing.assert_close(got.float(), wanted, atol=3e-2, rtol=0)


def test_fold() -> None:
    moe, (x, text, g) = shake(moe_of()).eval(), inputs(random_gate(2, 3))
    wanted = moe([x, text, g])
    moe.fold_text(text)
    assert torch.equal(moe([x, 0 * text, g]), wanted)


def test_round_trips() -> None:
    x = inputs(random_gate(3, 3))
    assert_round_trips(shake(moe_of()), moe_of(), [x])
    alone = [SparseMoE(C, N, 3, own_gate=True) for _ in range(2)]
    assert_round_trips(shake(alone[0]), alone[1], [x[0]])


def test_redraw_changes_dead_rows_only() -> None:
    moe = shake(moe_of())
    before = {name: p.clone() for name, p in moe.named_parameters()}
    moe.redraw(torch.tensor([0, 3, 6]), 4, torch.Generator().manual_seed(1))
    for name, p in moe.named_parameters():
        changed = [n + 2 for n in range(len(p)) if not torch.equal(p[n], before[name][n])] if p.ndim == 3 else []
        assert changed == ([] if not name.startswith("cross.") or name == "cross.w_t" else [3, 6]), name
        if not name.startswith("cross."):
            assert torch.equal(p, before[name]), name
    w = moe.cross.w_f.detach()
    source = w[2]
    for dead in (w[1], w[4]):  # near the source, not on it
        distance = (dead - source).std() / source.std(unbiased=False)
        assert distance.item() == pytest.approx(math.sqrt(0.1), rel=0.3)
    assert not torch.equal(w[1], w[4])


def test_redraw_is_the_same_on_all_workers() -> None:
    twins = []
    for seed in (1, 2):
        torch.manual_seed(0)
        moe = moe_of()
        torch.manual_seed(seed)  # the workers' own states differ
        before = moe.cross.w_f[1].clone()
        moe.redraw(torch.tensor([3]), 2, torch.Generator().manual_seed(7))  # from the first that is not universal
        assert not torch.equal(moe.cross.w_f[1], before)
        twins.append(moe.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(twins[0].values(), twins[1].values(), strict=True))


def test_redraw_from_a_universal_expert_leaves_all_as_they_are() -> None:
    moe = moe_of()
    before = {name: p.clone() for name, p in moe.named_parameters()}
    moe.redraw(torch.tensor([2, 3]), 1, torch.Generator().manual_seed(1))
    assert all(torch.equal(p, before[name]) for name, p in moe.named_parameters())


def test_parse_rules() -> None:
    with_gate = SparseMoE.parse(RowContext("SparseMoE", [64, 256, 32], []))
    assert (with_gate.args, with_gate.kwargs, with_gate.c2) == ([64, 32, None], {"text_width": 256}, 64)
    alone = SparseMoE.parse(RowContext("SparseMoE", 64, [8, 2]))
    assert (alone.args, alone.kwargs, alone.c2) == ([64, 8, 2], {"own_gate": True}, 64)
    with pytest.raises(ConfigError, match=r"'from' with 1 \(map\) or 3 \(map, text, gate\) inputs, got 2"):
        SparseMoE.parse(RowContext("SparseMoE", [64, 256], []))
    with pytest.raises(ConfigError, match="a gate over 8 experts, got 32"):
        SparseMoE.parse(RowContext("SparseMoE", [64, 256, 32], [8]))
