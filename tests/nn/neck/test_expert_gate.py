"""ExpertGate: equation 20 by hand, exact sparsity, load balance, learning, routes inside exported files."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_exports, assert_gradients_reach_all, assert_refuses_others, assert_round_trips, shake

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import ExpertGate, RowContext
from ultra_dsmoe.nn.knockout import Record
from ultra_dsmoe.nn.neck.expert_gate import GATE_FLOOR, TOKEN_STD, check_kept, load_balance, most_used, resolve_topk

C, D, N, K = 8, 12, 6, 3


def gate_of(topk: int = 2, text: bool = True, experts: Any = N) -> ExpertGate:
    return ExpertGate(C, experts, topk, D if text else None)


def inputs(b: int = 4, h: int = 3, w: int = 5) -> Any:
    return [torch.randn(b, C, h, w) + torch.randn(b, C, 1, 1), torch.randn(K, D)]


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize(("b", "experts", "topk"), [(1, 6, 2), (3, 1, 1), (2, 32, "auto"), (5, 7, 7)])
def test_shape_and_sparsity(b: int, experts: int, topk: Any, text: bool) -> None:
    gate = gate_of(topk, text, experts)
    x = inputs(b) if text else inputs(b)[0]
    for train in (True, False):
        g = gate.train(train)(x)
        assert g.shape == (b, experts)
        assert ((g > 0).sum(1) == gate.k).all()
        torch.testing.assert_close(g.sum(1), torch.ones(b), atol=1e-5, rtol=0)


def test_kept_experts_are_enough_different_and_there() -> None:
    assert check_kept([5, 0, 2], 2, 6) == (0, 2, 5)
    assert check_kept([1, 0], 2, 2) == (0, 1)
    assert check_kept([32, 8, 1], 2, 64) == (1, 8, 32), "in order, which a set of them is not in"
    for kept in ([0], [0, 1, 1], [0, 6], [-1, 0], [1, 1], [0, 1, 2, 2]):
        with pytest.raises(ConfigError, match="kept experts: expected at least 2 different numbers from 0 to 5, got"):
            check_kept(kept, 2, 6)


@pytest.mark.parametrize(
    ("topk", "experts", "k"), [("auto", 32, 5), ("auto", 33, 6), ("auto", 1, 1), ("auto", 2, 1), (4, 4, 4)]
)
def test_resolve_topk(topk: Any, experts: int, k: int) -> None:
    assert resolve_topk(topk, experts) == k


@pytest.mark.parametrize("topk", [0, -1, 7, 2.0, True, "five", None])
def test_bad_topk(topk: Any) -> None:
    message = r"topk: expected 'auto' or an integer from 1 to 6 \(the number of experts\), got "
    with pytest.raises(ConfigError, match=message):
        gate_of(topk)
    gate = gate_of(3)
    with pytest.raises(ConfigError, match=message):
        gate.set_topk(topk)
    assert gate.k == 3


def test_arguments() -> None:
    assert_refuses_others(ExpertGate, c=C, text_width=D)
    gate = ExpertGate(C)
    assert (gate.experts, gate.k, gate.has_text) == (32, 5, False)


@pytest.mark.parametrize("experts", [0, -3, 2.5, "many"])
def test_bad_experts(experts: Any) -> None:
    with pytest.raises(ConfigError, match="experts: expected a positive integer"):
        ExpertGate(C, experts, 1)


def reference(gate: Any, x: Any, text: Any) -> Any:
    """Equation 20 in plain tensors, evaluation mode."""

    def run(layers: Any, v: Any) -> Any:
        for i, layer in enumerate(layers):
            v = v.clamp(min=0) if i % 2 else v @ layer.weight.T + (0 if layer.bias is None else layer.bias)
        return v

    n_experts = gate.experts
    own = [text.mean(0) if n < 2 else text[(n - 2) % len(text)] for n in range(n_experts)]
    keys = run(gate.key, torch.stack(own) + gate.token[0])
    keys = keys - keys.mean(0)
    v = x.mean((2, 3))
    v = (v - v.mean(1, keepdim=True)) / torch.sqrt(v.var(1, keepdim=True, unbiased=False) + 1e-5)
    q = run(gate.image, v * gate.norm.weight + gate.norm.bias)
    q = (q - gate.running_mean) / torch.sqrt(gate.running_var + 1e-5)
    sim = sum(
        torch.cosine_similarity(q[:, None, s], keys[None, :, s], dim=-1)
        for s in (slice(0, 32), slice(32, 64), slice(64, 96), slice(96, 128))
    )
    prob = torch.softmax(sim / 4 / math.exp(gate.log_tau.item()), -1)
    out = torch.zeros_like(prob)
    for b, p in enumerate(prob.detach()):
        chosen = sorted(range(n_experts), key=lambda n: -p[n])[: gate.k]
        for n in chosen:
            out[b, n] = p[n] / p[chosen].sum()
    return out


def test_value() -> None:
    gate, (x, text) = shake(gate_of()).eval(), inputs()
    wanted = reference(gate, x, text)
    torch.testing.assert_close(gate([x, text]), wanted, atol=1e-5, rtol=1e-4)
    assert len({tuple(row.nonzero().flatten().tolist()) for row in wanted}) > 1


def test_query_is_batch_normalised_in_training() -> None:
    gate, (x, _) = gate_of(), inputs(16)
    q = gate.query(x).view(16, 4, 32)
    torch.testing.assert_close(q.norm(dim=-1), torch.ones(16, 4))
    raw = F.layer_norm(x.mean((2, 3)), (C,))
    for layer in gate.image:
        raw = layer(raw)
    normed = (raw - raw.mean(0)) / torch.sqrt(raw.var(0, unbiased=False) + 1e-5)
    torch.testing.assert_close(q, F.normalize(normed.view(16, 4, 32), dim=-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gate.running_mean, 0.1 * raw.mean(0), atol=1e-6, rtol=1e-4)


def test_initial_scalars() -> None:
    gate = gate_of(experts=200)
    assert gate.tau.item() == pytest.approx(0.1)
    assert gate.token.std().item() == pytest.approx(TOKEN_STD, rel=0.1)
    assert gate.token.ndim == 3  # a host optimizer orthogonalises two-dimensional parameters


@pytest.mark.parametrize(("log_tau", "tau"), [(-20.0, 0.01), (5.0, 1.0), (math.log(0.3), 0.3)])
def test_temperature_is_clamped(log_tau: Any, tau: float) -> None:
    gate = gate_of()
    gate.log_tau.data.fill_(log_tau)
    assert gate.tau.item() == pytest.approx(tau)


def test_floor_of_the_weights() -> None:
    """However sharp the gate, k weights stay: at least the floor, exact zeros elsewhere, no denormals."""
    gate, x = gate_of(4).eval(), inputs()
    gate.log_tau.data.fill_(-20.0)
    for out in (gate(x), gate.half()([t.half() for t in x]).float()):
        assert ((out > 0).sum(1) == 4).all()
        assert out[out > 0].min() >= 0.9 * GATE_FLOOR
        torch.testing.assert_close(out.sum(1), torch.ones(4), atol=2e-3, rtol=0)


def test_all_experts_is_the_softmax() -> None:
    gate, x = gate_of(N).eval(), inputs()
    logits = gate.query(x[0]) @ gate.text_constants(x[1])[0].T / 4 / 0.1
    torch.testing.assert_close(gate(x), torch.softmax(logits, -1))


def test_one_image_in_training() -> None:
    gate, x = gate_of(), inputs(1)
    before = gate.running_mean.clone()
    assert torch.isfinite(gate(x)).all()
    assert torch.equal(gate.running_mean, before)  # one image has no variance to learn from
    assert torch.equal(gate(x), gate.eval()(x))


def test_load_balance_by_hand() -> None:
    idx = torch.tensor([[0, 1], [2, 3]])
    assert load_balance(torch.full((2, 4), 0.25), idx).item() == pytest.approx(1)
    prob = torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4]])
    assert load_balance(prob, idx).item() == pytest.approx(1)  # shares are equal
    idx = torch.tensor([[0, 1], [0, 1]])
    assert load_balance(torch.tensor([[0.5, 0.5, 0, 0]]).expand(2, 4), idx).item() == pytest.approx(4 / 2)  # N / k
    assert load_balance(prob, idx).item() == pytest.approx(4 * (0.5 * 0.3 + 0.5 * 0.25))
    prob.requires_grad_()
    load_balance(prob, idx).backward()
    torch.testing.assert_close(prob.grad, torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0]]))  # N f_n / B


def test_records() -> None:
    gate, x = gate_of(), inputs()
    g = gate(x)
    gate(x)
    assert gate.images.item() == 8
    torch.testing.assert_close(gate.usage, 2 * (g > 0).sum(0).float())
    assert 0 < gate.entropy_sum.item() / 8 <= math.log(N) + 1e-5
    gate.eval()(x)
    assert gate.images.item() == 8
    # Not buffers: distributed training would overwrite every worker's with those of the first.
    assert {name for name, _ in gate.named_buffers()} == {"running_mean", "running_var"}
    gate.reset_record()
    assert gate.images.item() == gate.entropy_sum.item() == gate.usage.sum().item() == 0


def test_entropy_by_hand() -> None:
    gate = gate_of()
    gate._record(torch.tensor([[0.5, 0.5, 0, 0, 0, 0], [1.0, 0, 0, 0, 0, 0]]), torch.tensor([[0, 1], [0, 1]]))
    assert gate.entropy_sum.item() == pytest.approx(math.log(2), abs=1e-5)
    assert gate.usage.tolist() == [2, 2, 0, 0, 0, 0]


def test_gate_is_not_frozen() -> None:
    """Two kinds of image that need different experts: within 60 steps entropy falls and routes part."""
    gate, text = gate_of(2), torch.randn(K, D)
    kinds = torch.randn(2, C, 1, 1) * 2
    labels = torch.arange(16) % 2
    value = torch.randn(N, 4)
    target = value[torch.tensor([1, 4])][labels]
    optimizer = torch.optim.Adam(gate.parameters(), 3e-3)

    def step() -> Any:
        g = gate([kinds[labels] + 0.3 * torch.randn(16, C, 4, 4), text])
        loss = F.mse_loss(g @ value, target) + 0.01 * gate.pop_aux()["bal"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        entropy = (gate.entropy_sum / gate.images).item()
        gate.reset_record()
        return g, entropy

    _, first = step()
    for _ in range(60):
        g, last = step()
    assert first > 1.2  # ln 6 = 1.79
    assert last < first - 0.4
    assert (g[labels == 0].mean(0) - g[labels == 1].mean(0)).abs().sum() > 1  # of at most 2


@pytest.mark.parametrize("text", [True, False])
def test_gradients(text: bool) -> None:
    gate = shake(gate_of(4, text=text))
    assert_gradients_reach_all(gate, [inputs() if text else inputs()[0]])
    gate.zero_grad()
    gate(inputs() if text else inputs()[0])
    gate.pop_aux()["bal"].backward()
    assert gate.image[4].weight.grad.abs().max() > 0
    assert gate.token.grad.abs().max() > 0


@pytest.mark.parametrize("scale", [0.0, 1e-6, 100.0])
def test_gradients_are_finite_at_the_edges(scale: float) -> None:
    gate = gate_of()
    x, text = ((scale * t).requires_grad_() for t in inputs())
    g = gate([x, text])
    (g.square().sum() + gate.pop_aux()["bal"]).backward()
    for t in (x, text, *gate.parameters()):
        assert torch.isfinite(t.grad).all()


@pytest.mark.parametrize("folded", [False, True])
def test_half_precision(folded: bool) -> None:
    gate, x = shake(gate_of()).eval(), inputs()
    wanted = gate(x)
    if folded:
        gate.fold_text(x[1])
    got = gate.half()([t.half() for t in x])
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), wanted, atol=5e-2, rtol=0)
    for row, other in zip(got, wanted, strict=True):
        assert row.nonzero().tolist() == other.nonzero().tolist()


def test_fold() -> None:
    gate, (x, text) = shake(gate_of()).eval(), inputs()
    wanted = gate([x, text])
    gate.fold_text(text)
    assert torch.equal(gate([x, 0 * text]), wanted)


def test_text_moves_the_route() -> None:
    gate, (x, text) = gate_of().eval(), inputs(16)
    assert (gate([x, text]) - gate([x, text.flip(0)])).abs().max() > 0.05


def test_round_trips() -> None:
    assert_round_trips(shake(gate_of()), gate_of(), [inputs()], aux=True)
    twin = copy.deepcopy(gate_of())
    twin(inputs())
    assert twin.images.item() == 4
    assert_exports(shake(gate_of()), [inputs(1)], *([inputs(1)] for _ in range(4)))
    folded, (x, text) = shake(gate_of()).eval(), inputs(2)
    folded.fold_text(text)
    assert_exports(folded, [[x, text]], *([[inputs(2)[0], text]] for _ in range(4)))
    assert_exports(shake(gate_of(text=False)), [inputs(1)[0]], [inputs(1)[0]])


def test_parse_rule() -> None:
    plan = ExpertGate.parse(RowContext("ExpertGate", [64, 256], [], options={"experts": 16, "topk": 3}))
    assert (plan.args, plan.c2) == ([64, 16, 3, 256], 16)
    assert ExpertGate.parse(RowContext("ExpertGate", 64, [8, 2])).args == [64, 8, 2]
    with pytest.raises(ConfigError, match="'from' with 1 to 2 inputs"):
        ExpertGate.parse(RowContext("ExpertGate", [64, 256, 8], []))


@pytest.mark.parametrize(
    ("kinds", "numbers"),
    [
        (["local", "global"], {0, 1}),
        (["global", "cross-modal"], {1, 2, 3, 4, 5}),
        (["local", "cross-modal"], {0, 2, 3, 4, 5}),
    ],
)
def test_kinds_off_are_never_chosen(kinds: Any, numbers: Any) -> None:
    """In training and evaluation, over many images; balance and entropy are of the experts that there are."""
    torch.manual_seed(0)
    gate, x = ExpertGate(C, N, 2, D, kinds), inputs(200)
    for train in (True, False):
        g = gate.train(train)(x)
        assert set(g.nonzero()[:, 1].tolist()) <= numbers
        assert ((g > 0).sum(1) == 2).all()
        torch.testing.assert_close(g.sum(1), torch.ones(200), atol=1e-5, rtol=0)
    assert set(gate.usage.nonzero().flatten().tolist()) <= numbers
    if kinds == ["local", "global"]:  # two of two: nothing to balance
        assert float(gate.train()(x).detach().sum()) == pytest.approx(200)
        assert gate.aux["bal"].item() == pytest.approx(1)


def test_all_kinds_are_no_restriction() -> None:
    assert ExpertGate(C, N, 2, D, ["cross-modal", "global", "local"]).offered is None


def test_wrong_kinds() -> None:
    for kinds in (["locals"], "local", ["local", "local"], ["local"], [], None, [1]):
        with pytest.raises(
            ConfigError, match="kinds of experts: expected names out of local, global, cross-modal of at"
        ):
            ExpertGate(C, N, 2, D, kinds)
    gate = ExpertGate(C, N, 2, D, ["local", "global"])
    with pytest.raises(ConfigError, match="topk: expected at most 2, the experts of the kinds that are on, got 3"):
        gate.set_topk(3)
    with pytest.raises(ConfigError, match="kept experts: expected none of a kind that is off"):
        gate.keep([1, 2])


# settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.01, 0.3, 1.0])
def test_temperature_by_hand(tau: Any) -> None:
    gate = gate_of()
    gate.set_tau(tau)
    assert gate.tau.item() == pytest.approx(tau)
    for wrong in (0.009, 1.001, math.nan):
        with pytest.raises(ConfigError, match=r"temperature of the gate: expected a number from 0.01 to 1, got "):
            gate.set_tau(wrong)
    assert gate.tau.item() == pytest.approx(tau)


def test_kept_experts_alone_are_chosen_in_evaluation() -> None:
    gate, x = gate_of(2).eval(), inputs()
    names = set(gate.state_dict())
    gate.keep([5, 1, 3])
    assert gate.kept == (1, 3, 5)
    assert not gate(x)[:, [0, 2, 4]].any()
    assert set(gate.state_dict()) == names, "a setting, no weight"
    settings = gate.read_settings()
    assert settings == {"k": 2, "kept": (1, 3, 5)}
    gate.keep(None)
    assert gate.kept is None
    assert gate(x)[:, [0, 2, 4]].any()
    gate.set_topk(1)
    gate.write_settings(settings)
    assert gate.read_settings() == settings
    assert not gate(x)[:, [0, 2, 4]].any()


def test_settings_of_a_gate_without_some_kinds() -> None:
    gate = ExpertGate(C, N, 2, kinds=["local", "global", "cross-modal"][:2])
    assert gate.offered == (0, 1)
    gate.set_topk(2)
    gate.set_topk(1)
    with pytest.raises(ConfigError, match="topk: expected at most 2, the experts of the kinds that are on, got 3"):
        gate.set_topk(3)
    gate.keep([0, 1])
    gate.keep([1])
    with pytest.raises(ConfigError, match=r"kept experts: expected none of a kind that is off, got \[1, 2\]"):
        gate.keep([1, 2])
    gate.keep(None)
    assert set(gate.state_dict()) == set(gate_of(text=False).state_dict()), "what is offered is no weight"
    every = gate_of(2)
    every.set_topk(6)
    assert every.k == 6


# knock-outs -----------------------------------------------------------------------------------------------------------


def test_the_most_used_by_hand() -> None:
    routing = torch.tensor([[0.9, 0.1, 0, 0], [0, 0.4, 0.6, 0], [0, 0.3, 0.7, 0], [0, 0, 0, 1.0]])
    # Chosen by 1, 3, 2 and 1 images; mean weights 0.225, 0.2, 0.325 and 0.25.
    torch.testing.assert_close(most_used(routing, 2), torch.tensor([0, 0.2, 0.325, 0]) / 0.525)
    torch.testing.assert_close(most_used(routing, 3), torch.tensor([0.225, 0.2, 0.325, 0]) / 0.75)
    one = most_used(torch.tensor([[0.0, 1.0]]), 1)
    assert one.tolist() == [0, 1]


def switched(name: Any, gates: Any, record: Any, seed: Any = 0) -> Any:
    (knockout,) = [k for k in ExpertGate.knockouts if k.name == name]
    return knockout.switch(gates, record, seed)


def test_fixed_routing_is_that_of_all_images() -> None:
    gate, x = gate_of(2).eval(), inputs(4)
    routing = gate(x).detach()
    with switched("routing-fixed", [gate], Record(gates={gate: [routing]})):
        assert torch.equal(gate(x), most_used(routing, 2).expand(4, -1))
    assert torch.equal(gate(x), routing)


def test_random_routing_keeps_the_weights_and_draws_the_experts() -> None:
    gate, x = gate_of(2, experts=32).eval(), inputs(64)
    own = gate(x).detach()
    with switched("routing-random", [gate], Record()):
        found = gate(x)
        again = gate(x)
    for g in (found, again):
        assert torch.equal(g.topk(2).values, own.topk(2).values)
        assert (g > 0).sum(1).eq(2).all()
    assert len({tuple(row.nonzero().flatten().tolist()) for row in found}) > 50, "image by image"
    assert (found > 0).any(0).sum() > 25, "of all experts"
    with switched("routing-random", [gate], Record()):
        assert torch.equal(torch.cat([gate([x[0][:10], x[1]]), gate([x[0][10:], x[1]])]), found), "whatever the batch"
    with switched("routing-random", [gate], Record(), seed=1):
        assert not torch.equal(gate(x) > 0, found > 0)
    assert torch.equal(gate(x), own)


def test_gain_and_form_of_what_it_declares() -> None:
    assert {name: term.gain for name, term in ExpertGate.aux_terms.items()} == {"bal": 0.01}
    assert {name: option.default for name, option in ExpertGate.options.items()} == {"experts": 32, "topk": "auto"}
    gate = gate_of(experts=7)
    for name, axes in ExpertGate.stacked_vectors.items():
        assert gate.get_parameter(name).shape == (1, 7, D), "a host optimizer orthogonalises parameters of two axes"
        assert axes == 1, "which of its axes counts the vectors"
    assert (gate.running_mean.tolist(), gate.running_var.tolist()) == ([0.0] * 128, [1.0] * 128)
    assert gate.key[-1].bias is None
    assert gate.image[-1].bias is None
    assert (TOKEN_STD, GATE_FLOOR) == (0.5, 1e-6)


def test_two_images_are_batch_normalised_too() -> None:
    gate, x = gate_of().train(), inputs(2)[0]
    q = gate.query(x)
    torch.testing.assert_close(q[0], -q[1], atol=1e-4, rtol=1e-3)  # each as far from their mean


def test_a_unit_that_never_varied_and_coarse_parameters_are_no_trouble() -> None:
    gate = gate_of().eval()
    gate.running_var.zero_()
    assert torch.isfinite(gate(inputs())).all()
    assert gate.half().tau.dtype == torch.float32


def test_a_row_may_name_the_kinds() -> None:
    kinds = ["local", "global"]
    plan = ExpertGate.parse(RowContext("ExpertGate", [C, D], [N, 2, kinds]))
    assert (plan.args, plan.kwargs) == ([C, N, 2, D], {"kinds": kinds})
