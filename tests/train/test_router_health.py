"""RouterMonitor: which gate drives which mixture, the columns by hand, revival of the dead."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.utils import LOGGER

from ultra_dsmoe.nn import ExpertGate, SparseMoE
from ultra_dsmoe.train.router_health import RouterMonitor, revive

C, N, K = 8, 6, 2


def alone() -> Any:
    """A net whose mixture holds its own gate."""
    return nn.Sequential(nn.Conv2d(3, C, 1), SparseMoE(C, N, K, own_gate=True))


class Wired(nn.Module):
    """A net with one mixture that reads a gate row, and one that is given its weights by something else."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.moe, self.other = ExpertGate(C, N, K), SparseMoE(C, N, None), SparseMoE(C, N, K)
        self.moe.connect([nn.Identity(), nn.Identity(), self.gate])


def use(gate: Any, *routes: Any, entropy: float = 0.7) -> None:
    """Fill the record as if images had taken these routes."""
    idx = torch.tensor(routes)
    gate.usage = torch.bincount(idx.flatten(), minlength=N).float()
    gate.images = torch.tensor([float(len(routes))])
    gate.entropy_sum = torch.tensor([entropy * len(routes)])


def test_own_gate_is_found() -> None:
    net = alone()
    assert RouterMonitor(net).pairs == [(net[1].gate, net[1])]


def test_gate_of_another_row_is_found() -> None:
    net = Wired()
    assert RouterMonitor(net).pairs == [(net.gate, net.moe)]


def test_net_without_a_gate_has_no_columns() -> None:
    assert RouterMonitor(nn.Conv2d(3, 3, 1)).end_epoch(0) == {}


def test_columns_by_hand() -> None:
    net = alone()
    gate = net[1].gate
    use(gate, [0, 2], [0, 3], [0, 4], [1, 2], entropy=0.7)
    gate.log_tau.data.fill_(math.log(0.25))
    assert RouterMonitor(net).end_epoch(0) == {  # of the four images; five digits
        "router/usage_max": 0.75,
        "router/entropy": 0.7,
        "router/dead": 1,
        "router/temperature": 0.25,
    }


def test_columns_of_one_image_and_their_digits() -> None:
    net = alone()
    use(net[1].gate, [0, 1], entropy=0.1234567)
    net[1].gate.log_tau.data.fill_(math.log(0.2345678))
    columns = RouterMonitor(net).end_epoch(0)
    assert columns == {
        "router/usage_max": 1.0, "router/entropy": 0.12346, "router/dead": 4, "router/temperature": 0.23457
    }  # fmt: skip


def test_counts_are_summed_over_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    net, summed = alone(), []
    use(net[1].gate, [0, 2], [0, 3], entropy=0.5)

    def all_reduce(buffer: Any) -> None:  # another worker saw the same
        summed.append(buffer)
        buffer *= 2

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    columns = RouterMonitor(net).end_epoch(0)
    assert len(summed) == 3
    assert (columns["router/usage_max"], columns["router/entropy"]) == (1.0, 0.5)


def test_counts_come_from_training_forwards() -> None:
    net = alone().train()
    gate = net[1].gate
    net(torch.randn(4, 3, 6, 6))
    net(torch.randn(3, 3, 6, 6))
    net.eval()(torch.randn(2, 3, 6, 6))  # validation does not count
    assert gate.images.item() == 7
    assert gate.usage.sum().item() == 7 * K
    usage, entropy = gate.usage.clone(), gate.entropy_sum.item() / 7
    columns = RouterMonitor(net).end_epoch(0)
    assert columns["router/usage_max"] == pytest.approx(usage.max().item() / 7, abs=1e-5)
    assert columns["router/entropy"] == pytest.approx(entropy, abs=1e-5)
    assert columns["router/entropy"] <= math.log(N) + 1e-5
    assert columns["router/dead"] == int((usage == 0).sum())


def test_entropy_of_a_uniform_gate() -> None:
    net = alone().train()
    gate = net[1].gate
    gate.log_tau.data.fill_(0.0)
    nn.init.zeros_(gate.key[4].weight)  # all keys alike
    net(torch.randn(4, 3, 6, 6))
    assert RouterMonitor(net).end_epoch(0)["router/entropy"] == pytest.approx(math.log(N), abs=1e-4)


def test_record_is_reset() -> None:
    net = alone().train()
    monitor = RouterMonitor(net)
    net(torch.randn(4, 3, 6, 6))
    monitor.end_epoch(0)
    gate = net[1].gate
    assert gate.images.item() == gate.usage.sum().item() == gate.entropy_sum.item() == 0
    columns = monitor.end_epoch(1)  # an epoch without images
    assert columns["router/dead"] == 0
    assert columns["router/usage_max"] == columns["router/entropy"] == 0


def changed_rows(before: Any, after: Any) -> Any:
    return [n for n in range(len(before)) if not torch.equal(before[n], after[n])]


def test_dead_experts_are_revived_near_the_most_used(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)
    net = alone()
    moe, gate = net[1], net[1].gate
    use(gate, [2, 0], [2, 3], [4, 0], [2, 0])  # 1 and 5 are dead; 2 is the most used cross-modal one
    w, token = moe.cross.w_f.detach().clone(), gate.token.detach()[0].clone()
    wide = moe.wide.mix.weight.detach().clone()
    with caplog.at_level("INFO", LOGGER.name):
        assert RouterMonitor(net).end_epoch(3)["router/dead"] == 2
    assert "router: revived 2 experts unused in epoch 4 near expert 2" in caplog.text
    assert changed_rows(w, moe.cross.w_f) == [5 - 2]
    assert changed_rows(token, gate.token[0]) == [1, 5]
    assert torch.equal(wide, moe.wide.mix.weight)
    new = gate.token[0, 5].detach()
    assert torch.cosine_similarity(new, token[2], dim=0) > 0.98
    assert not torch.equal(new, token[2])
    assert torch.cosine_similarity(moe.cross.w_f[3].flatten(), w[0].flatten(), dim=0) > 0.9


@pytest.mark.parametrize(
    ("frozen", "moved"),
    [
        ("cross", {"gate.token"}),
        ("w_f", {"gate.token", "cross.dw", "cross.conv_bias", "cross.ln_gain", "cross.ln_bias"}),
        ("token", set()),
        ("", set()),
    ],
    ids=["experts", "one parameter", "gate", "everything"],
)
def test_revival_leaves_what_is_frozen(frozen: str, moved: Any) -> None:
    net = alone()
    moe = net[1]
    for name, p in moe.named_parameters():
        p.requires_grad_(frozen not in name)
    for p in moe.cross.parameters():
        p.data += torch.randn_like(p)  # biases and gains, alike in a fresh mixture, would be re-drawn as they are
    before = {name: p.detach().clone() for name, p in moe.named_parameters()}
    use(moe.gate, [2, 0], [2, 3], [4, 0], [2, 1])
    assert RouterMonitor(net).end_epoch(0)["router/dead"] == 1
    assert {name for name, p in moe.named_parameters() if not torch.equal(p, before[name])} == moved


def test_universal_experts_are_no_source_however_much_they_are_used() -> None:
    net = alone()
    moe, gate = net[1], net[1].gate
    use(gate, [1, 3], [1, 0], [0, 1], [4, 3])  # 2 and 5 are dead; 1 leads, 3 is the most used cross-modal one
    w, token = moe.cross.w_f.detach().clone(), gate.token.detach()[0].clone()
    RouterMonitor(net).end_epoch(0)
    for dead in (2, 5):
        likeness = torch.cosine_similarity(gate.token[0, dead], token, dim=1)
        assert int(likeness.argmax()) == 3
        assert torch.cosine_similarity(moe.cross.w_f[dead - 2].flatten(), w[3 - 2].flatten(), dim=0) > 0.9


def test_nothing_dead_nothing_changed() -> None:
    net = alone()
    use(net[1].gate, [0, 1], [2, 3], [4, 5])
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert RouterMonitor(net).end_epoch(0)["router/dead"] == 0
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_revival_is_the_same_on_all_workers_and_differs_by_epoch() -> None:
    states = []
    for seed, epoch in ((1, 0), (2, 0), (3, 1)):
        torch.manual_seed(0)
        net = alone()
        torch.manual_seed(seed)
        gate = net[1].gate
        use(gate, [2, 3], [2, 4])
        revive(gate, [net[1]], torch.tensor([5]), epoch)
        states.append(net[1].cross.w_f[3].clone())
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_nothing_to_revive_from() -> None:
    net = alone()
    gate = net[1].gate
    use(gate, [0, 1], [0, 1])  # universal experts only
    usage = gate.usage.clone()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    revive(gate, [net[1]], torch.tensor([2, 3]), 0)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(gate.usage, usage)


def test_one_gate_for_two_mixtures_reports_and_revives_once() -> None:
    first, second = SparseMoE(C, N, K, own_gate=True), SparseMoE(C, N, K, own_gate=True)
    second.gate = first.gate
    use(first.gate, [2, 3], [2, 4])
    before = [m.cross.w_f[3].clone() for m in (first, second)]  # expert 5, unused
    columns = RouterMonitor(nn.Sequential(first, second)).end_epoch(0)
    assert columns["router/usage_max"] == pytest.approx(1.0)
    assert not any(torch.equal(m.cross.w_f[3], b) for m, b in zip((first, second), before, strict=True))


def test_means_over_several_gates() -> None:
    net = nn.Sequential(SparseMoE(C, N, K, own_gate=True), SparseMoE(C, N, K, own_gate=True))
    use(net[0].gate, [0, 1], [2, 3], [4, 5], entropy=1.0)
    use(net[1].gate, [0, 1], [0, 2], entropy=0.5)
    for moe, tau in zip(net, (0.2, 0.4), strict=True):
        moe.gate.log_tau.data.fill_(math.log(tau))
    columns = RouterMonitor(net).end_epoch(0)
    assert columns["router/usage_max"] == pytest.approx((1 / 3 + 1) / 2, abs=1e-5)
    assert columns["router/entropy"] == pytest.approx(0.75)
    assert columns["router/dead"] == 3
    assert columns["router/temperature"] == pytest.approx(0.3)
