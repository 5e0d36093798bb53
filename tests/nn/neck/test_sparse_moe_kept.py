"""SparseMoE with some experts kept: what it computes, what its gate chooses among, what it costs."""

from typing import Any

import numpy as np
import pytest
import torch
from block_checks import shake
from moe_checks import C, D, K, N, Routed, experts_by_loop, gate_of, inputs, moe_of, random_gate, work_of

from ultra_dsmoe.nn import ExpertGate, SparseMoE


@pytest.mark.parametrize("kept", [[0, 2, 3, 5], [2, 4, 5], [0, 1, 6], [0, 1, 2, 3, 4, 5, 6]])
def test_static_is_the_others_where_all_chosen_are_kept(kept: Any) -> None:
    moe = shake(moe_of()).eval()
    x, text, g = inputs(gate_of(*(np.random.permutation(kept)[:3].tolist() for _ in range(4))))
    wanted = moe([x, text, g])
    moe.set_mode("static", kept)
    torch.testing.assert_close(moe([x, text, g]), wanted, atol=1e-5, rtol=1e-5)


def test_static_computes_universal_experts_alone() -> None:
    moe = shake(moe_of(2)).eval()
    x, text, g = inputs(gate_of([0, 1], [1, 0]))
    wanted = moe([x, text, g])
    moe.set_mode("static", [0, 1])
    torch.testing.assert_close(moe([x, text, g]), wanted, atol=1e-5, rtol=1e-5)


def test_static_leaves_out_what_is_not_kept() -> None:
    """A gate that chooses another expert all the same loses that expert's share, and nothing else."""
    moe, (x, text, g) = shake(moe_of()).eval(), inputs(gate_of([0, 2, 5], [2, 4, 6]))
    moe.set_mode("static", [2, 4, 6])
    (bias,) = moe.text_constants(text)
    left = g.clone()
    left[0, [0, 5]] = 0
    torch.testing.assert_close(moe._static(x, g, bias), experts_by_loop(moe, x, text, left), atol=1e-5, rtol=1e-5)


def test_static_gate_chooses_the_best_of_the_kept() -> None:
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


def test_training_ignores_what_is_kept() -> None:
    gate, x = ExpertGate(C, N, 3, D), [torch.randn(64, C, 3, 3) + 3 * torch.randn(64, C, 1, 1), torch.randn(K, D)]
    gate.keep([1, 2, 3])
    assert set((gate.eval()(x) > 0).any(0).nonzero().flatten().tolist()) == {1, 2, 3}
    assert len((gate.train()(x) > 0).any(0).nonzero()) > 3


def test_own_gate_keeps_the_same_experts() -> None:
    moe = SparseMoE(C, N, 2, own_gate=True).eval()
    moe.set_mode("static", [2, 5, 6])
    assert moe.gate.kept == moe.kept == (2, 5, 6)
    x = torch.randn(3, C, 5, 5)
    wanted = moe(x)
    moe.mode = "dense"  # the gate still chooses among the kept ones
    torch.testing.assert_close(moe(x), wanted, atol=1e-5, rtol=1e-5)
    moe.set_mode("gather")
    assert moe.gate.kept is None


def test_static_work_is_that_of_the_kept() -> None:
    moe = SparseMoE(C, 32, 2, text_width=D).eval()
    x, work = inputs(random_gate(2, 2, 32)), []
    moe.fold_text(x[1])
    for kept in ([4, 5], [4, 5, 6], [4, 5, 6, 7]):
        moe.set_mode("static", kept)
        work.append(work_of(moe, x))
    assert work[0] == 2 * 2 * 30 * 2 * (C * C + 9 * C + C)  # universal experts are not computed either
    assert work[2] - work[1] == work[1] - work[0] == work[0] / 2
