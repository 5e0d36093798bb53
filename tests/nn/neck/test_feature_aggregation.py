"""FeatureAggregation: the convex blend by hand; the gradient alignment's hand values and limits."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_exports, assert_gradients_reach_all, assert_refuses_others, assert_round_trips, shake

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import FeatureAggregation, RowContext
from ultra_dsmoe.nn.neck.feature_aggregation import gradient_alignment

C = 8


def inputs(b: int = 2, h: int = 5, w: int = 6) -> Any:
    return [torch.randn(b, C, h, w) + torch.randn(b, C, 1, 1), torch.randn(b, C, h, w)]


@pytest.mark.parametrize(("b", "h", "w"), [(1, 2, 2), (2, 7, 5), (3, 4, 9)])
def test_shape(b: int, h: int, w: int) -> None:
    for train in (True, False):
        assert FeatureAggregation(C).train(train)(inputs(b, h, w)).shape == (b, C, h, w)


def test_arguments() -> None:
    assert_refuses_others(FeatureAggregation, c=8)


def test_errors() -> None:
    with pytest.raises(ConfigError, match="FeatureAggregation: expected two maps of equal channels, got 8 and 16"):
        FeatureAggregation.parse(RowContext("FeatureAggregation", [8, 16], []))
    with pytest.raises(ConfigError, match="'from' with 2 inputs"):
        FeatureAggregation.parse(RowContext("FeatureAggregation", 8, []))


def weight_of(block: Any, e: Any, m: Any) -> Any:
    pooled = torch.cat([e.mean((2, 3)), m.mean((2, 3))], 1)
    first, _, last = block.weight
    hidden = (pooled @ first.weight.T + first.bias).clamp(min=0)
    return (1 / (1 + torch.exp(-(hidden @ last.weight.T + last.bias)))).view(len(e), C, 1, 1)


def test_value() -> None:
    block, (e, m) = shake(FeatureAggregation(C), 0.5).eval(), inputs()
    a, bn = weight_of(block, e, m), block.bn
    normed = F.batch_norm(e, bn.running_mean, bn.running_var, bn.weight, bn.bias)
    torch.testing.assert_close(block([e, m]), a * normed + (1 - a) * m, atol=1e-5, rtol=1e-4)
    assert a.max() - a.min() > 0.1


@pytest.mark.parametrize(("bias", "which"), [(60.0, 0), (-60.0, 1)])
def test_limits_of_the_blend(bias: float, which: int) -> None:
    block, x = FeatureAggregation(C).eval(), inputs()
    torch.nn.init.constant_(block.weight[2].bias, bias)
    torch.testing.assert_close(block(x), x[which], atol=1e-4, rtol=1e-4)


def test_blend_lies_between() -> None:
    """Convex: no element leaves the interval that the two maps span."""
    block, (e, m) = FeatureAggregation(C).eval(), inputs()
    out, normed = block([e, m]), e / (1 + block.bn.eps) ** 0.5
    assert (out <= torch.maximum(normed, m) + 1e-5).all()
    assert (out >= torch.minimum(normed, m) - 1e-5).all()


def test_gain_of_its_term() -> None:
    assert {name: term.gain for name, term in FeatureAggregation.aux_terms.items()} == {"ga": 0.05}


def test_width_of_the_perceptron() -> None:
    assert FeatureAggregation(128).weight[0].out_features == 16
    assert FeatureAggregation(16).weight[0].out_features == 8


def test_gradient_alignment_by_hand() -> None:
    a = torch.tensor([[0.0, 3.0], [4.0, 9.0]]).view(1, 1, 2, 2)  # one cell, differences (3, 4)
    b = torch.tensor([[1.0, 5.0], [1.0, 7.0]]).view(1, 1, 2, 2)  # (4, 0)
    assert gradient_alignment(a, b).item() == pytest.approx(1 - 12 / (5 * 4))
    faint = 1e-3 * 20**-0.5  # both differences together: 1e-6, a hundredth of the guard
    assert gradient_alignment(faint * a, faint * b).item() == pytest.approx(1 - 0.6 * 1e-2)
    two = torch.cat([a, a], 3)  # cells with (3, 4), (-3, 6), (3, 4)
    assert gradient_alignment(two, -two).item() == pytest.approx(2)


def test_limits_of_gradient_alignment() -> None:
    a = torch.randn(2, C, 6, 6)
    assert gradient_alignment(a, a).item() == pytest.approx(0, abs=1e-6)
    assert gradient_alignment(a, 3 * a + 5).item() == pytest.approx(0, abs=1e-6)  # scale and level do not matter
    assert gradient_alignment(a, -a).item() == pytest.approx(2, abs=1e-6)
    assert gradient_alignment(a, torch.randn_like(a)).item() == pytest.approx(1, abs=0.2)
    assert gradient_alignment(torch.ones_like(a), torch.ones_like(a)).item() == 1  # nothing to align


def test_term_is_left_in_training_only() -> None:
    block, x = FeatureAggregation(C), inputs()
    block(x)
    torch.testing.assert_close(block.pop_aux()["ga"], gradient_alignment(*x))
    block.eval()(x)
    assert block.pop_aux() == {}


def test_gradients() -> None:
    assert_gradients_reach_all(shake(FeatureAggregation(C)), [inputs()])
    block = shake(FeatureAggregation(4)).double().eval()
    e, m = (torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda *x: block(list(x)), (e, m))
    for scale in (0.0, 1e-4, 100.0):
        a, b = ((scale * t).requires_grad_() for t in inputs())
        gradient_alignment(a, b).backward()
        assert torch.isfinite(a.grad).all()
        assert torch.isfinite(b.grad).all()


def test_alignment_descends() -> None:
    a, b = torch.randn(1, C, 6, 6), torch.randn(1, C, 6, 6, requires_grad=True)
    before = gradient_alignment(a, b)
    before.backward()
    assert gradient_alignment(a, b - 5 * b.grad) < before - 0.01


def test_round_trips() -> None:
    assert_round_trips(shake(FeatureAggregation(C)), FeatureAggregation(C), [inputs()], aux=True)
    assert_exports(shake(FeatureAggregation(C)), [inputs()], [inputs()])
    half, x = shake(FeatureAggregation(C)).eval(), inputs()
    wanted = half(x)
    torch.testing.assert_close(half.half()([t.half() for t in x]).float(), wanted, atol=2e-2, rtol=0)


def test_parse_rule() -> None:
    plan = FeatureAggregation.parse(RowContext("FeatureAggregation", [64, 64], []))
    assert (plan.args, plan.c2) == ([64], 64)


def test_gradient_alignment_is_computed_in_fp32() -> None:
    a, b = (100 * torch.randn(2, C, 5, 5).half() for _ in range(2))
    got = gradient_alignment(a, b)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, gradient_alignment(a.float(), b.float()), rtol=1e-6, atol=0)
