"""SparseMoE: its executions against plain loops, work that grows with k, routes inside the ONNX file, re-drawing."""

import io
import math
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from block_checks import (
    LEGACY,
    assert_exports,
    assert_gradients_reach_all,
    assert_round_trips,
    export_onnx,
    run_onnx,
    shake,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.nn import ExpertGate, RowContext, SparseMoE

C, D, N, K = 8, 10, 7, 3


def moe_of(topk=3, **kwargs):
    return SparseMoE(C, N, topk, text_width=D, **kwargs)


def gate_of(*chosen, n=N):
    """G from lists of chosen experts, random weights that sum to one."""
    g = torch.zeros(len(chosen), n)
    for row, ids in zip(g, chosen, strict=True):
        row[ids] = torch.softmax(torch.randn(len(ids)), 0)
    return g


def random_gate(b, k, n=N):
    return gate_of(*(torch.randperm(n)[:k].tolist() for _ in range(b)), n=n)


def inputs(g, h=5, w=6):
    return [torch.randn(len(g), C, h, w), torch.randn(K, D), g]


def experts_by_loop(moe, x, text, g):
    """Equation 21: one expert after the other, one image after the other."""
    out = torch.zeros_like(x)
    for b in range(len(x)):
        for n in g[b].nonzero().flatten().tolist():
            image = x[b : b + 1]
            if n == 0:
                y = moe.local(image)
            elif n == 1:
                y = moe.wide(image)
            else:
                e, m = moe.cross, n - 2
                maps = F.conv2d(image, e.w_f[m][..., None, None])
                if text is not None:
                    maps = maps + (e.w_t[m] @ text[m % len(text)]).view(1, -1, 1, 1)
                maps = F.conv2d(maps, e.dw[m].view(C, 1, 3, 3), e.conv_bias[m, :, 0], padding=1, groups=C)
                y = F.layer_norm(maps.permute(0, 2, 3, 1), (C,), e.ln_gain[m, :, 0], e.ln_bias[m, :, 0])
                y = F.silu(y).permute(0, 3, 1, 2)
            out[b] += g[b, n] * y[0]
    return out


def three_ways(moe, x, text, g):
    (bias,) = moe.text_constants(text)
    return moe._pairs(x, g, bias), moe._gather(x, g, bias), moe._dense(x, g, bias)


@pytest.mark.parametrize(("b", "h", "w"), [(1, 1, 1), (2, 7, 5), (3, 4, 9)])
def test_shape(b, h, w):
    x = inputs(random_gate(b, 3), h, w)
    moe = moe_of()
    for mode in ("gather", "dense"):
        moe.set_mode(mode)
        assert moe.eval()(x).shape == x[0].shape
    if b * h * w > 1:
        assert moe.train()(x).shape == x[0].shape
    alone = SparseMoE(C, N, 2, own_gate=True).eval()
    assert alone(x[0]).shape == x[0].shape


def test_errors():
    for experts in (2, 0, 3.0, "all"):
        with pytest.raises(ConfigError, match="experts: expected an integer of at least 3"):
            SparseMoE(C, experts, 1)
    for topk in (0, 8, 1.5, "most"):
        with pytest.raises(ConfigError, match="topk: expected 'auto' or an integer from 1 to 7"):
            moe_of(topk)
        with pytest.raises(ConfigError, match="topk: expected 'auto' or an integer from 1 to 7"):
            moe_of().set_topk(topk)
    with pytest.raises(ConfigError, match="moe mode: expected gather or static or dense, got loop"):
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
def test_value_of_the_three_executions(name):
    moe, (x, text, g) = shake(moe_of()), inputs(gate_of(*ROUTES[name]))
    wanted = experts_by_loop(moe, x, text, g)
    for got in three_ways(moe, x, text, g):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("k", range(1, N + 1))
def test_executions_agree_for_every_k(k):
    moe, (x, text, g) = shake(moe_of(k)), inputs(random_gate(4, k))
    pairs, gather, dense = three_ways(moe, x, text, g)
    torch.testing.assert_close(pairs, dense, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gather, dense, atol=1e-5, rtol=1e-5)


def test_forward_uses_what_the_mode_says_and_normalises():
    moe, (x, text, g) = shake(moe_of()).eval(), inputs(random_gate(2, 3))
    bn, raw = moe.bn, experts_by_loop(moe, x, text, g)
    wanted = F.batch_norm(raw, bn.running_mean, bn.running_var, bn.weight, bn.bias)
    calls = []

    def watch(way):
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


def test_one_expert_per_image_is_that_expert_alone():
    moe, (x, text, _) = shake(moe_of(1)), inputs(torch.zeros(N, N))
    g = torch.eye(N)
    bias = moe.text_constants(text)[0]
    for got in three_ways(moe, x, text, g):
        torch.testing.assert_close(got[0:1], moe.local(x[0:1]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got[1:2], moe.wide(x[1:2]), atol=1e-5, rtol=1e-5)
        for n in range(2, N):
            alone = moe.cross(x[n : n + 1].unsqueeze(1), torch.tensor([[n - 2]]), bias)[:, 0]
            torch.testing.assert_close(got[n : n + 1], alone, atol=1e-5, rtol=1e-5)


def test_unchosen_experts_have_no_say():
    moe, (x, text, g) = moe_of(), inputs(gate_of([0, 2, 3], [2, 3, 4]))
    before = three_ways(moe, x, text, g)
    with torch.no_grad():
        moe.wide.mix.weight.add_(1)
        for p in moe.cross.stacked():
            p[3:] += 1  # experts 5 and 6
    for got, wanted in zip(three_ways(moe, x, text, g), before, strict=True):
        torch.testing.assert_close(got, wanted)


def test_without_text():
    moe = shake(SparseMoE(C, N, 3))
    x, _, g = inputs(random_gate(2, 3))
    for got in three_ways(moe, x, None, g):
        torch.testing.assert_close(got, experts_by_loop(moe, x, None, g), atol=1e-5, rtol=1e-5)


def work_of(moe, x):
    with FlopCounterMode(display=False) as counter:
        moe(x)
    return counter.get_total_flops()


def test_training_computes_the_chosen_pairs_only():
    n, k, b, h = 32, 5, 16, 12
    moe = SparseMoE(C, n, k, text_width=D)
    x, text, g = inputs(random_gate(b, k, n), h, h)
    cost = {0: 14 * C + C * C, 1: 3 * C * C}  # multiply-adds per position of the local and the global expert
    ideal = sum(cost.get(e, C * C + 9 * C) for row in g for e in row.nonzero().flatten().tolist()) * 2 * h * h
    assert ideal <= work_of(moe.train(), [x, text, g]) <= 1.2 * ideal
    everything = (sum(cost.values()) + (n - 2) * (C * C + 9 * C)) * 2 * h * h * b
    moe.eval().set_mode("dense")
    assert work_of(moe, [x, text, g]) >= everything > 5 * ideal


# kept experts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [[0, 2, 3, 5], [2, 4, 5], [0, 1, 6], [0, 1, 2, 3, 4, 5, 6]])
def test_static_is_the_others_where_all_chosen_are_kept(kept):
    moe = shake(moe_of()).eval()
    x, text, g = inputs(gate_of(*(np.random.permutation(kept)[:3].tolist() for _ in range(4))))
    wanted = moe([x, text, g])
    moe.set_mode("static", kept)
    torch.testing.assert_close(moe([x, text, g]), wanted, atol=1e-5, rtol=1e-5)


def test_static_computes_universal_experts_alone():
    moe = shake(moe_of(2)).eval()
    x, text, g = inputs(gate_of([0, 1], [1, 0]))
    wanted = moe([x, text, g])
    moe.set_mode("static", [0, 1])
    torch.testing.assert_close(moe([x, text, g]), wanted, atol=1e-5, rtol=1e-5)


def test_static_leaves_out_what_is_not_kept():
    """A gate that chooses another expert all the same loses that expert's share, and nothing else."""
    moe, (x, text, g) = shake(moe_of()).eval(), inputs(gate_of([0, 2, 5], [2, 4, 6]))
    moe.set_mode("static", [2, 4, 6])
    (bias,) = moe.text_constants(text)
    left = g.clone()
    left[0, [0, 5]] = 0
    torch.testing.assert_close(moe._static(x, g, bias), experts_by_loop(moe, x, text, left), atol=1e-5, rtol=1e-5)


def test_static_gate_chooses_the_best_of_the_kept():
    """What the others get is defined: the gate's choice as if no other expert existed, weights scaled to sum 1."""
    routed, text = shake(Routed(topk=2), 0.3).eval(), torch.randn(K, D)
    x = torch.randn(64, C, 5, 6) + 3 * torch.randn(64, C, 1, 1)
    with torch.no_grad():
        routed.gate.set_topk(N)
        prob = routed.gate([x, text])  # all experts: the softmax itself
        routed.gate.set_topk(2)
        free = routed.gate([x, text])
        chosen = (free[0] > 0).nonzero().flatten().tolist()
        kept = [*chosen, next(n for n in range(N) if n not in chosen)]
        routed.gate.keep(kept)
        bound = routed.gate([x, text])
    among = torch.zeros_like(prob)
    among[:, kept] = prob[:, kept]
    best = among.topk(2).indices
    wanted = torch.zeros_like(prob).scatter(1, best, among.gather(1, best))
    torch.testing.assert_close(bound, wanted / wanted.sum(1, keepdim=True), atol=1e-5, rtol=1e-4)
    covered = (free[:, kept] > 0).sum(1) == 2
    assert 0 < covered.sum() < 64, "the seed gives no images of both kinds"
    torch.testing.assert_close(bound[covered], free[covered], atol=1e-6, rtol=1e-5)


def test_training_ignores_what_is_kept():
    gate, x = ExpertGate(C, N, 3, D), [torch.randn(64, C, 3, 3) + 3 * torch.randn(64, C, 1, 1), torch.randn(K, D)]
    gate.keep([1, 2, 3])
    assert set((gate.eval()(x) > 0).any(0).nonzero().flatten().tolist()) == {1, 2, 3}
    assert len((gate.train()(x) > 0).any(0).nonzero()) > 3


def test_own_gate_keeps_the_same_experts():
    moe = SparseMoE(C, N, 2, own_gate=True).eval()
    moe.set_mode("static", [2, 5, 6])
    assert moe.gate.kept == moe.kept == (2, 5, 6)
    x = torch.randn(3, C, 5, 5)
    wanted = moe(x)
    moe.mode = "dense"  # the gate still chooses among the kept ones
    torch.testing.assert_close(moe(x), wanted, atol=1e-5, rtol=1e-5)
    moe.set_mode("gather")
    assert moe.gate.kept is None


def test_static_work_is_that_of_the_kept():
    moe = SparseMoE(C, 32, 2, text_width=D).eval()
    x, work = inputs(random_gate(2, 2, 32)), []
    moe.fold_text(x[1])
    for kept in ([4, 5], [4, 5, 6], [4, 5, 6, 7]):
        moe.set_mode("static", kept)
        work.append(work_of(moe, x))
    assert work[0] == 2 * 2 * 30 * 2 * (C * C + 9 * C + C)  # universal experts are not computed either
    assert work[2] - work[1] == work[1] - work[0] == work[0] / 2


# shifted slices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, N])
@pytest.mark.parametrize(("h", "w"), [(1, 1), (2, 5), (6, 3)])
def test_without_dynamic_convolution_nothing_changes(k, h, w):
    moe = shake(moe_of(k)).eval()
    x = inputs(random_gate(3, k), h, w)
    for mode in ("gather", "dense"):
        moe.set_mode(mode)
        moe.dynamic_conv = True
        wanted = moe(x)
        moe.dynamic_conv = False
        torch.testing.assert_close(moe(x), wanted, atol=1e-5, rtol=1e-5)


def convolutions_of_tensors(session_bytes):
    graph = onnx.load_from_string(session_bytes).graph
    constants = {i.name for i in graph.initializer} | {n.output[0] for n in graph.node if n.op_type == "Constant"}
    return [n.name for n in graph.node if n.op_type == "Conv" and n.input[1] not in constants]


def onnx_bytes(module, inputs, **kwargs):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, tuple(inputs), buffer, opset_version=17, **LEGACY, **kwargs)
    return buffer.getvalue()


def test_only_gather_with_dynamic_convolution_has_one_in_the_file():
    moe, x = shake(moe_of(dynamic_conv=True)).eval(), [inputs(random_gate(1, 3))]
    assert len(convolutions_of_tensors(onnx_bytes(moe, x))) == 1
    moe.dynamic_conv = False
    assert convolutions_of_tensors(onnx_bytes(moe, x)) == []
    moe.set_mode("static", [0, 3, 5])
    moe.dynamic_conv = True
    assert convolutions_of_tensors(onnx_bytes(moe, x)) == []


def test_gather_work_grows_with_k():
    moe = SparseMoE(C, 32, 5, text_width=D).eval()
    work = []
    for k in (1, 2, 4, 8):
        moe.set_topk(k)
        work.append(work_of(moe, inputs(random_gate(2, k, 32))))
    steps = [(after - before) / more for before, after, more in zip(work, work[1:], (1, 2, 4), strict=False)]
    # two images of 5 x 6 positions, one expert more: mixing, 3x3 kernel, weighting
    assert steps[0] == 2 * 30 * 2 * (C * C + 9 * C + C)
    assert steps == [steps[0]] * 3


def test_set_topk_reaches_the_own_gate():
    moe = SparseMoE(C, N, 2, own_gate=True)
    moe.set_topk(4)
    assert (moe.k, moe.gate.k) == (4, 4)
    moe.set_topk("auto")
    assert moe.k == moe.gate.k == math.ceil(math.log2(N))
    x = torch.randn(3, C, 5, 5)
    wanted = moe.eval()(x)
    moe.set_mode("dense")
    torch.testing.assert_close(moe(x), wanted, atol=1e-5, rtol=1e-5)


def test_gradients():
    assert_gradients_reach_all(shake(moe_of(N)), [inputs(random_gate(3, N))])
    alone = shake(SparseMoE(C, N, N, own_gate=True))
    assert_gradients_reach_all(alone, [torch.randn(4, C, 5, 5) + torch.randn(4, C, 1, 1)])
    wild = [100 * t for t in inputs(random_gate(3, 3))[:2]]
    moe, leaves = moe_of(), [t.requires_grad_() for t in wild]
    moe([*leaves, random_gate(3, 3)]).square().sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in leaves)


def test_gradients_of_the_executions_agree():
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


def test_unchosen_experts_get_no_gradient():
    moe = moe_of()
    moe(inputs(gate_of([0, 2, 4], [2, 4, 6]))).square().sum().backward()
    moved = [n + 2 for n in range(N - 2) if moe.cross.w_f.grad[n].abs().max() > 0]
    assert moved == [2, 4, 6]
    assert moe.wide.mix.weight.grad is None
    assert moe.local.row.weight.grad.abs().max() > 0


def test_half_precision():
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


def test_fold():
    moe, (x, text, g) = shake(moe_of()).eval(), inputs(random_gate(2, 3))
    wanted = moe([x, text, g])
    moe.fold_text(text)
    assert torch.equal(moe([x, 0 * text, g]), wanted)


def test_round_trips():
    x = inputs(random_gate(3, 3))
    assert_round_trips(shake(moe_of()), moe_of(), [x])
    alone = [SparseMoE(C, N, 3, own_gate=True) for _ in range(2)]
    assert_round_trips(shake(alone[0]), alone[1], [x[0]])


MODES = {"gather": None, "static": [0, 2, 4, 5], "dense": None}


@pytest.mark.parametrize("b", [1, 2, 4])
@pytest.mark.parametrize("mode", MODES)
def test_export_at_fixed_batches(b, mode):
    moe = shake(moe_of())
    moe.set_mode(mode, MODES[mode])
    assert_exports(moe, *([inputs(random_gate(b, 3))] for _ in range(3)))
    if mode != "dense":
        alone = shake(SparseMoE(C, N, 3, own_gate=True))
        alone.set_mode(mode, MODES[mode])
        assert_exports(alone, *([torch.randn(b, C, 5, 6) + torch.randn(b, C, 1, 1)] for _ in range(3)))


@pytest.mark.parametrize("mode", MODES)
def test_export_with_a_dynamic_batch(mode):
    alone = shake(SparseMoE(C, N, 3, own_gate=True, dynamic_conv=False)).eval()
    alone.set_mode(mode, MODES[mode])
    axes = {name: {0: "b", 2: "h", 3: "w"} for name in ("x", "y")}
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
    session = onnxruntime.InferenceSession(onnx_bytes(alone, [torch.randn(2, C, 5, 6)], **names))
    for shape in ((1, 5, 6), (2, 5, 6), (3, 4, 7)):
        x = torch.randn(shape[0], C, *shape[1:]) + 3 * torch.randn(shape[0], C, 1, 1)
        with torch.no_grad():
            np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], alone(x).numpy(), atol=1e-4)


def test_a_static_file_holds_the_kept_experts_only():
    moe, x = shake(SparseMoE(C, 32, 2, text_width=D)).eval(), [inputs(random_gate(1, 2, 32))]
    moe.fold_text(x[0][1])
    sizes = {}
    for mode, kept in (("gather", None), ("static", [3, 8])):
        moe.set_mode(mode, kept)
        graph = onnx.load_from_string(onnx_bytes(moe, x)).graph
        sizes[mode] = sum(math.prod(i.dims) for i in graph.initializer)
    expert = C * C + 9 * C + 4 * C  # numbers of a cross-modal expert
    assert sizes["gather"] > 30 * expert
    assert 2 * expert <= sizes["static"] < 3 * expert


class Routed(nn.Module):
    """Stages 7 and 8 as a model wires them."""

    def __init__(self, topk=2):
        super().__init__()
        self.gate, self.moe = ExpertGate(C, N, topk, D), SparseMoE(C, N, topk, text_width=D)

    def forward(self, x, text):
        g = self.gate([x, text])
        return self.moe([x, text, g]), g


def different_routes(routed, text):
    """Find two images whose chosen experts have nothing in common."""
    found = {}
    for _ in range(200):
        x = torch.randn(1, C, 5, 6) + 3 * torch.randn(1, C, 1, 1)
        ids = frozenset(routed.gate([x, text]).nonzero()[:, 1].tolist())
        for other, image in found.items():
            if not ids & other:
                return image, x
        found[ids] = x
    pytest.fail("the gate sends everything to the same experts")


@pytest.mark.parametrize("mode", ["gather", "static"])
def test_routes_survive_in_the_onnx_file(mode):
    """Two images choose different experts inside the file, whatever the image was that it was traced with."""
    routed, text = Routed().eval(), torch.randn(K, D)
    if mode == "static":
        routed.moe.set_mode(mode, [0, 2, 3, 4, 6])
        routed.gate.keep([0, 2, 3, 4, 6])
    with torch.no_grad():
        first, second = different_routes(routed, text)
        session = export_onnx(routed, [first, text])
        seen = []
        for x in (first, second, first):
            mixture, g = run_onnx(session, [x, text])
            wanted_mixture, wanted_gate = routed(x, text)
            np.testing.assert_allclose(g, wanted_gate.numpy(), atol=1e-5)
            np.testing.assert_allclose(mixture, wanted_mixture.numpy(), atol=1e-4)
            seen.append(set(g[0].nonzero()[0].tolist()))
        assert seen[0] == seen[2]
        assert not seen[0] & seen[1]
        together = export_onnx(routed, [torch.cat([second, second]), text])  # traced on one route for both slots
        mixture, g = run_onnx(together, [torch.cat([first, second]), text])
        np.testing.assert_allclose(mixture, routed(torch.cat([first, second]), text)[0].numpy(), atol=1e-4)
        assert [set(row.nonzero()[0].tolist()) for row in g] == seen[:2]


def test_redraw_changes_dead_rows_only():
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


def test_redraw_is_the_same_on_all_workers():
    twins = []
    for seed in (1, 2):
        torch.manual_seed(0)
        moe = moe_of()
        torch.manual_seed(seed)  # the workers' own states differ
        moe.redraw(torch.tensor([3]), 2, torch.Generator().manual_seed(7))
        twins.append(moe.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(twins[0].values(), twins[1].values(), strict=True))


def test_redraw_from_a_universal_expert_leaves_all_as_they_are():
    moe = moe_of()
    before = {name: p.clone() for name, p in moe.named_parameters()}
    moe.redraw(torch.tensor([2, 3]), 1, torch.Generator().manual_seed(1))
    assert all(torch.equal(p, before[name]) for name, p in moe.named_parameters())


def test_parse_rules():
    with_gate = SparseMoE.parse(RowContext("SparseMoE", [64, 256, 32], []))
    assert (with_gate.args, with_gate.kwargs, with_gate.c2) == ([64, 32, "auto"], {"text_width": 256}, 64)
    alone = SparseMoE.parse(RowContext("SparseMoE", 64, [8, 2]))
    assert (alone.args, alone.kwargs, alone.c2) == ([64, 8, 2], {"own_gate": True}, 64)
    with pytest.raises(ConfigError, match=r"'from' with 1 \(map\) or 3 \(map, text, gate\) inputs, got 2"):
        SparseMoE.parse(RowContext("SparseMoE", [64, 256], []))
    with pytest.raises(ConfigError, match="a gate over 8 experts, got 32"):
        SparseMoE.parse(RowContext("SparseMoE", [64, 256, 32], [8]))
