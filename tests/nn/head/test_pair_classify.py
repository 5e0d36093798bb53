"""PairClassify: both modes by hand, what the host does with a head, the temperature, rows."""

from __future__ import annotations

import copy
import math
import pickle
import re
from typing import Any

import pytest
import torch
from block_checks import assert_exports, assert_refuses_others, shake
from torch import nn
from ultralytics.nn.modules import Classify
from ultralytics.nn.tasks import ClassificationModel, guess_model_task

from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.nn import PairClassify, PairOutputs, RowContext

NC, C1, C, HIDDEN = 5, 12, 8, 10


def small(dropout: float = 0.0) -> Any:
    return shake(PairClassify(NC, C1, C, HIDDEN, dropout))


def inputs(b: int = 3) -> list[Any]:
    return [torch.randn(b, C1), *(torch.randn(b, C) for _ in range(3))]


def by_hand(head: Any, fused: Any) -> Any:
    x = fused @ head.mlp[0].weight.T + head.mlp[0].bias
    x = x * (1 + torch.erf(x / math.sqrt(2))) / 2
    return x @ head.linear.weight.T + head.linear.bias


@pytest.mark.parametrize("b", [1, 3])
def test_value_in_training(b: int) -> None:
    head, x = small(), inputs(b)
    out = head.train()(x)
    assert isinstance(out, PairOutputs)
    torch.testing.assert_close(out.logits, by_hand(head, x[0]), atol=1e-5, rtol=1e-5)
    assert [out.image, out.vlm, out.llm] == x[1:]
    for got, z, layer in zip(out.warm, x[1:], head.warm, strict=True):
        torch.testing.assert_close(got, z @ layer.weight.T + layer.bias)
        assert got.shape == (b, NC)


@pytest.mark.parametrize("missing", [(2,), (3,), (2, 3)])
def test_texts_that_are_not_there(missing: Any) -> None:
    head, whole = small(), inputs()
    x = [None if i in missing else t for i, t in enumerate(whole)]
    out = head.train()(x)
    assert [z is None for z in (out.vlm, out.llm)] == [i in missing for i in (2, 3)]
    assert [z is None for z in out.warm] == [False, *(i in missing for i in (2, 3))]
    assert torch.equal(head.eval()(x)[0], head(whole)[0])


def test_a_picture_that_is_none() -> None:
    with pytest.raises(ShapeError, match=r"^PairClassify image: expected a vector per image, got none$"):
        small().train()([torch.randn(2, C1), None, None, None])


def test_value_in_evaluation() -> None:
    head, x = small(0.9).eval(), inputs()
    probabilities, logits = head(x)
    wanted = by_hand(head, x[0])
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(probabilities, wanted.exp() / wanted.exp().sum(1, keepdim=True))
    head.export = True
    assert torch.equal(head(x), probabilities)


def test_dropout_is_that_of_training() -> None:
    head, x = PairClassify(NC, C1, C, 1000, 0.5), inputs(1)
    kept = []
    head.mlp.register_forward_hook(lambda m, args, out: kept.append((out != 0).float().mean().item()))
    head.train()(x)
    head.eval()(x)
    assert kept[0] == pytest.approx(0.5, abs=0.06)
    assert kept[1] == 1


def test_tau_starts_learns_and_stays_in_its_range() -> None:
    head = PairClassify(NC, C1, C)
    assert head.tau.item() == pytest.approx(0.07)
    head.tau.sum().backward()
    assert head.log_tau.grad.item() == pytest.approx(0.07)
    assert head.fast_parameters == ("log_tau",)
    for far, bound in ((-100.0, 0.01), (3.0, 0.5)):
        nn.init.constant_(head.log_tau, far)
        assert head.tau.item() == pytest.approx(bound)


@pytest.mark.parametrize("bound", [0.01, 0.5])
def test_a_tau_at_its_bound_can_come_back(bound: float) -> None:
    """A clamp passes no gradient outside: a step too far would be the last one."""
    head = PairClassify(NC, C1, C)
    nn.init.constant_(head.log_tau, math.log(bound) + (1 if bound == 0.5 else -1))
    head.train()([*inputs()[:2], None, None])
    assert head.tau.item() == pytest.approx(bound, rel=2e-3)
    assert 0.01 < head.tau.item() < 0.5
    head.tau.sum().backward()
    assert head.log_tau.grad.item() == pytest.approx(bound, rel=2e-3)


def test_two_forwards_may_share_one_backward() -> None:
    """Bringing tau back into its range must not disturb a graph that has read it."""
    head = PairClassify(NC, C1, C).train()
    nn.init.constant_(head.log_tau, 5.0)
    loss = torch.zeros(())
    for _ in range(2):
        loss = loss + head(inputs()).logits.sum() * head.tau.sum()
    loss.backward()
    assert torch.isfinite(head.log_tau.grad).all()


def test_gradients() -> None:
    head, x = small().train(), [t.requires_grad_() for t in inputs()]
    out = head(x)
    (out.logits.square().sum() + sum(w.square().sum() for w in out.warm) + head.tau.sum()).backward()
    for name, p in [*head.named_parameters(), *((str(i), t) for i, t in enumerate(x))]:
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().max() > 0, name


def test_round_trips() -> None:
    head, x = small(), inputs()
    head.train()(x)
    twins = [copy.deepcopy(head), pickle.loads(pickle.dumps(head)), small()]
    twins[-1].load_state_dict(head.state_dict())
    wanted, logits = head.eval()(x)
    for twin in twins:
        got = twin.eval()(x)
        assert torch.equal(got[0], wanted)
        assert torch.equal(got[1], logits)
        assert torch.equal(twin.tau, head.tau)
        assert torch.equal(twin.warm[2].weight, head.warm[2].weight)


@pytest.mark.parametrize("with_texts", [True, False])
def test_exports(with_texts: bool) -> None:
    class Exported(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = small()
            self.head.export = True

        def forward(self, x: Any) -> Any:
            return self.head([*x, *([] if with_texts else [None, None])])

    cut = 4 if with_texts else 2
    assert_exports(Exported(), [inputs(1)[:cut]], [inputs(1)[:cut]])


def test_half_precision() -> None:
    head, x = small().eval(), inputs()
    half = copy.deepcopy(head).half()
    got, logits = half([t.half() for t in x])
    assert got.dtype == logits.dtype == torch.float16
    torch.testing.assert_close(got.float(), head(x)[0], atol=1e-2, rtol=1e-2)
    assert half.tau.dtype == torch.float32


# what the host does with a head ---------------------------------------------------------------------------------------


def test_the_host_knows_it() -> None:
    head = small()
    assert isinstance(head, Classify)
    assert guess_model_task(nn.Sequential(head)) == "classify"
    assert not hasattr(head, "conv"), "layers of the host's that nothing runs through"


@pytest.mark.parametrize("nc", [2, 9])
def test_the_host_changes_the_number_of_classes(nc: int) -> None:
    head = small()
    ClassificationModel.reshape_outputs(nn.Sequential(nn.Identity(), head), nc)
    out = head.train()(inputs())
    assert [t.shape for t in (out.logits, *out.warm)] == [(3, nc)] * 4
    assert sum(isinstance(m, nn.Linear) for m in head.modules()) == 5
    before = head.warm
    ClassificationModel.reshape_outputs(nn.Sequential(nn.Identity(), head), nc)
    assert head.warm is before


def test_the_host_resets_all_layers() -> None:
    head = small()
    for m in head.modules():
        if hasattr(m, "reset_parameters"):
            m.reset_parameters()
    assert torch.isfinite(head.train()(inputs()).logits).all()
    assert 0.01 <= head.tau.item() <= 0.5


# arguments and rows ---------------------------------------------------------------------------------------------------


def test_arguments() -> None:
    assert_refuses_others(PairClassify, nc=NC, c1=C1, c=C, hidden=HIDDEN)
    for wrong in (-0.1, 1.1, math.nan, None, True, "x"):
        with pytest.raises(ConfigError, match=r"^PairClassify dropout: expected a number from 0 to 1, got"):
            PairClassify(NC, C1, C, HIDDEN, wrong)  # type: ignore[arg-type]


def test_parse_rule() -> None:
    plan = PairClassify.parse(RowContext("PairClassify", [768, 256, 256, 256], [], nc=7))
    assert (plan.args, plan.c2, plan.kwargs, plan.repeats) == ([7, 768, 256, 128, 0.1], 7, {}, 1)
    plan = PairClassify.parse(RowContext("PairClassify", [256] * 4, [3, 64, 0], nc=7))
    assert plan.args == [3, 256, 256, 64, 0]


@pytest.mark.parametrize(
    ("ctx", "message"),
    [
        ({"args": [5, 8, 0, 1]}, "model YAML row PairClassify: expected at most 3 arguments, got [5, 8, 0, 1]"),
        ({"n": 2}, "model YAML row PairClassify: expected 1 repeat, got 2"),
        ({"args": ["x"]}, "PairClassify nc: expected a positive integer, got x"),
        ({"c1": [8, 8, 8]}, "model YAML row PairClassify: expected 'from' with 4 inputs, got 3"),
        (
            {"c1": [8, 8, 8, 9]},
            "model YAML row PairClassify: expected texts as wide as the image's vector, 8, got [8, 9]",
        ),
    ],
)
def test_rows_that_are_wrong(ctx: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        PairClassify.parse(RowContext(**{"name": "PairClassify", "c1": [8, 8, 8, 8], "args": [5], **ctx}))
