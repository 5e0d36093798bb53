"""The terms of one level: by hand, zero for equal maps, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ultra_dsmoe.distill import attention_loss, attention_mask, foreground_loss, global_loss, mimic_loss, scale_mask


def test_mimic_by_hand() -> None:
    teacher, student = torch.tensor([[[[1.0, 2.0]], [[0.0, 4.0]]]]), torch.tensor([[[[1.0, 0.0]], [[3.0, 3.0]]]])
    assert mimic_loss(teacher, student) == (0 + 4 + 9 + 1) / 4


def test_foreground_by_hand() -> None:
    """One box on the left column of a 2x2 grid; two channels, attention 1 and 2."""
    scale = scale_mask(torch.tensor([[0.25, 0.5, 0.5, 1.0]]), torch.zeros(1), 1, (2, 2))
    assert scale[0, 0].tolist() == [[0.5, 0.5], [0.5, 0.5]]  # 2 cells each
    scale = scale_mask(torch.tensor([[0.25, 0.25, 0.4, 0.4]]), torch.zeros(1), 1, (2, 2))  # 1 cell against 3
    teacher = torch.tensor([[[[3.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 6.0]]]])
    attention = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    inside = 1 * (1 * 9) + 1 * (2 * 1)  # Scale A D over channels, in the box
    outside = 1 / 3 * (2 * 36)
    got = foreground_loss(teacher, torch.zeros_like(teacher), scale, attention)
    assert got.item() == pytest.approx((inside + outside) / 2)  # 1/C


def test_foreground_sees_the_difference_alone() -> None:
    teacher, student, attention = (torch.rand(2, 3, 4, 4) for _ in range(3))
    scale = torch.rand(2, 1, 4, 4)
    got = foreground_loss(teacher, student, scale, attention)
    torch.testing.assert_close(got, foreground_loss(teacher - student, torch.zeros_like(student), scale, attention))
    assert foreground_loss(teacher, teacher.clone(), scale, attention) == 0


def test_foreground_is_a_mean_over_images() -> None:
    scale = torch.ones(2, 1, 1, 1)
    teacher = torch.tensor([2.0, 4.0]).view(2, 1, 1, 1)
    assert foreground_loss(teacher, torch.zeros(2, 1, 1, 1), scale, torch.ones(2, 1, 1, 1)) == (4 + 16) / 2


def test_boxes_outweigh_as_many_background_cells() -> None:
    """The same error costs more in a box of 4 cells than on 60 cells of background."""
    scale = scale_mask(torch.tensor([[0.125, 0.125, 0.25, 0.25]]), torch.zeros(1), 1, (8, 8))
    teacher, one = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    inside, outside = teacher.clone(), teacher.clone()
    inside[..., 0, 0], outside[..., 7, 7] = 1, 1
    ratio = foreground_loss(teacher, inside, scale, one) / foreground_loss(teacher, outside, scale, one)
    assert ratio.item() == pytest.approx(60 / 4)


def test_attention_terms_by_hand() -> None:
    a, b = torch.tensor([[[[0.5, 3.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
    assert attention_loss(a, b) == (0.5 * 0.25 + (2 - 0.5)) / 2  # smooth L1: quadratic below 1, linear above
    assert global_loss(a, b) == (0.25 + 4) / 2


@pytest.mark.parametrize("loss", [mimic_loss, attention_loss, global_loss])
def test_equal_maps_cost_nothing(loss: Any) -> None:
    x = torch.randn(2, 3, 4, 4)
    assert loss(x, x.clone()) == 0


def test_gradient_reaches_the_student() -> None:
    teacher = torch.randn(2, 3, 4, 4, dtype=torch.double)
    student = torch.randn(2, 3, 4, 4, dtype=torch.double, requires_grad=True)
    scale, mask = torch.rand(2, 1, 4, 4).double(), attention_mask(teacher, 20)
    assert torch.autograd.gradcheck(lambda s: foreground_loss(teacher, s, scale, mask), student)
    assert torch.autograd.gradcheck(lambda s: attention_loss(mask, attention_mask(s, 20)), student)
