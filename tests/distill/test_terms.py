"""All terms of a batch: levels, normalisation, the zero of equal maps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ultra_dsmoe.distill import (
    ActivationAttention,
    attention_mask,
    distillation_terms,
    foreground_loss,
    mimic_loss,
    resolve,
    scale_mask,
)
from ultra_dsmoe.nn.attention.dual_attention import DualAttention

BOXES, INDEX = torch.tensor([[0.5, 0.5, 0.8, 0.8], [0.5, 0.5, 0.1, 0.1]]), torch.tensor([0.0, 0.0])
SHAPES = [(2, 6, 8, 6), (2, 4, 4, 3)]
ACTIVATION = [ActivationAttention().attended] * len(SHAPES)


def trained_attention(channels: int) -> DualAttention:
    """Return an attention that looks at its map; a fresh one is the identity."""
    attention = DualAttention(channels).eval().requires_grad_(False)
    torch.nn.init.ones_(attention.channel_out.bn.weight)
    torch.nn.init.ones_(attention.spatial_out.bn.weight)
    return attention


def maps() -> list[Tensor]:
    return [torch.randn(shape) for shape in SHAPES]


@pytest.mark.parametrize("kd", ["attention", "mimic", {"normalize": False}, {"method": "mimic", "normalize": False}])
@pytest.mark.parametrize("own", [True, False])
def test_equal_nets_cost_nothing(kd: object, own: bool) -> None:
    teacher = maps()
    attentions = [trained_attention(s[1]).attended if own else ActivationAttention().attended for s in SHAPES]
    terms = distillation_terms(resolve(kd), teacher, [t.clone() for t in teacher], attentions, BOXES, INDEX)
    assert tuple(terms) == resolve(kd).terms
    assert all(term == 0 for term in terms.values())


def test_as_printed_by_the_single_terms() -> None:
    """Without normalisation, with a teacher's own attention: the mean over levels of the equations."""
    config = resolve({"normalize": False, "temperature": 3})
    teacher, student = maps(), maps()
    attentions = [trained_attention(s[1]) for s in SHAPES]
    terms = distillation_terms(config, teacher, student, [a.attended for a in attentions], BOXES, INDEX)
    expected = torch.zeros(3)
    for t, s, attention in zip(teacher, student, attentions, strict=True):
        mt, ms = attention.weight(t) * t, attention.weight(s) * s
        at, as_ = attention_mask(mt, 3), attention_mask(ms, 3)
        scale = scale_mask(BOXES, INDEX, 2, tuple(t.shape[-2:]))
        att = torch.nn.functional.smooth_l1_loss(as_, at) * 9
        expected += torch.stack([foreground_loss(t, s, scale, at), att, (mt - ms).square().mean()]) / 2
    torch.testing.assert_close(torch.stack(list(terms.values())), expected)
    assert all(expected > 1e-4)


def test_normalised_terms_do_not_see_scale_or_number_of_boxes() -> None:
    config = resolve("attention")
    teacher, student = maps(), maps()
    once = distillation_terms(config, teacher, student, ACTIVATION, BOXES, INDEX)
    scaled = distillation_terms(config, [t * 50 for t in teacher], [s * 50 for s in student], ACTIVATION, BOXES, INDEX)
    for name, term in once.items():
        torch.testing.assert_close(scaled[name], term)
    many = torch.cat([torch.rand(40, 2), torch.full((40, 2), 0.2)], 1)
    crowded = distillation_terms(config, teacher, student, ACTIVATION, many, torch.zeros(40))
    assert 0.5 < crowded["fg"] / once["fg"] < 2


def test_by_hand_with_one_cell_against_another() -> None:
    """Mc = Ms = 3/4, a single channel of two cells: M(F) = 1.5 F, as printed, and every term follows from it."""
    attention = DualAttention(1).eval().requires_grad_(False)
    for bn in (attention.channel_out.bn, attention.spatial_out.bn):  # its scale is 0: the sigmoid of its bias alone
        torch.nn.init.constant_(bn.bias, math.log(3))
    teacher, student = torch.tensor([[[[0.0, 40.0]]]]), torch.tensor([[[[20.0, 0.0]]]])
    terms = distillation_terms(
        resolve({"normalize": False}), [teacher], [student], [attention.attended], torch.zeros(0, 4), torch.zeros(0)
    )
    torch.testing.assert_close(terms["glob"], torch.tensor((30.0**2 + 60.0**2) / 2))
    mask, other = 2 / (1 + math.exp(3)), 2 / (1 + math.exp(1.5))  # of the cell that is 0; M differs by 60 and 30
    torch.testing.assert_close(terms["fg"], torch.tensor((mask * 20**2 + (2 - mask) * 40**2) / 2))  # all background
    apart = 2 - other - mask  # of both cells, above 1: smooth L1 is linear there
    assert apart > 1
    torch.testing.assert_close(terms["att"], torch.tensor((apart - 0.5) * 20.0**2))


def test_a_map_of_small_values_counts_as_one_of_large() -> None:
    """As printed, T = 20 would leave nothing of it."""
    teacher, student = maps(), maps()
    strong, weak = (lambda x: x), (lambda x: 0.01 * x)
    by_attention = [
        distillation_terms(resolve("attention"), teacher, student, [m] * 2, BOXES, INDEX) for m in (strong, weak)
    ]
    for name, term in by_attention[0].items():
        torch.testing.assert_close(by_attention[1][name], term, rtol=1e-3, atol=1e-5)
        assert term > 0.1
    printed = distillation_terms(resolve({"normalize": False}), teacher, student, [weak] * 2, BOXES, INDEX)
    assert printed["att"] < 1e-3


def test_a_constant_teacher_stays_bounded() -> None:
    """One that was never trained: its maps hardly vary."""
    teacher = [torch.full(shape, 0.1) + 1e-4 * torch.randn(shape) for shape in SHAPES]
    student = [s.requires_grad_() for s in maps()]
    terms = distillation_terms(resolve("attention"), teacher, student, ACTIVATION, BOXES, INDEX)
    assert all(0 <= term < 10 for term in terms.values())
    sum(terms.values()).backward()
    assert all(torch.isfinite(s.grad).all() for s in student)


def test_mimic_is_the_plain_difference() -> None:
    teacher, student = maps(), maps()
    config = resolve({"method": "mimic", "normalize": False})
    (term,) = distillation_terms(config, teacher, student, ACTIVATION, BOXES, INDEX).values()
    expected = sum(mimic_loss(t, s) for t, s in zip(teacher, student, strict=True)) / 2
    torch.testing.assert_close(term, expected)


def test_half_precision_maps_are_compared_in_fp32() -> None:
    teacher, student = maps(), maps()
    one, other = ([m.bfloat16() for m in side] for side in (teacher, student))
    terms = distillation_terms(resolve("attention"), one, other, ACTIVATION, BOXES, INDEX)
    one, other = ([m.float() for m in side] for side in (one, other))
    full = distillation_terms(resolve("attention"), one, other, ACTIVATION, BOXES, INDEX)
    for name, term in terms.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, full[name])


def test_maps_that_do_not_vary_at_all_are_compared_without_a_division_by_zero() -> None:
    flat = [torch.full(shape, 0.1) for shape in SHAPES]
    for kd in ("attention", "mimic"):
        terms = distillation_terms(resolve(kd), flat, flat, ACTIVATION, BOXES, INDEX)
        assert all(term == 0 for term in terms.values())


@pytest.mark.parametrize(("its", "own"), [(1.0, 0.1), (1.0, 10.0), (2e-6, 2e-6)])
def test_the_unit_is_the_larger_deviation_and_a_constant_to_the_gradient(its: float, own: float) -> None:
    teacher, student = its * torch.randn(2, 3, 4, 5), (own * torch.randn(2, 3, 4, 5)).requires_grad_()
    (term,) = distillation_terms(resolve("mimic"), [teacher], [student], ACTIVATION[:1], BOXES, INDEX).values()
    unit = max(teacher.std().item(), student.std().item())
    torch.testing.assert_close(term, ((teacher - student) / unit).square().mean())
    (grad,) = torch.autograd.grad(term, student)
    torch.testing.assert_close(grad, 2 * (student - teacher).detach() / unit**2 / student.numel(), rtol=1e-3, atol=1e-5)


def test_images_without_boxes_are_background() -> None:
    none = torch.zeros(0, 4), torch.zeros(0)
    terms = distillation_terms(resolve("attention"), maps(), maps(), ACTIVATION, *none)
    assert all(torch.isfinite(term) and term > 0 for term in terms.values())
