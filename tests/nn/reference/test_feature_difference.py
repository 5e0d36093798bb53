"""FeatureDifference: by hand, the identity at the start, equal pairs, gradients, export, errors."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from block_checks import assert_exports, assert_gradients_reach_all, assert_refuses_others, assert_round_trips, shake

from ultra_dsmoe.errors import ShapeError
from ultra_dsmoe.explain.catalogue import catalogue
from ultra_dsmoe.nn import FeatureDifference, Reference, RowContext

C = 8


@pytest.mark.parametrize("b", [1, 3])
def test_value(b: int) -> None:
    block, x = shake(FeatureDifference(C)).eval(), torch.randn(2 * b, C, 4, 6)
    bn: Any = block.project.bn
    with torch.no_grad():
        d = torch.einsum("oc,bchw->bohw", block.project.conv.weight[:, :, 0, 0], (x[::2] - x[1::2]).abs())
        scale = (bn.weight / (bn.running_var + bn.eps).sqrt()).view(1, C, 1, 1)
        wanted = x[::2] + (d - bn.running_mean.view(1, C, 1, 1)) * scale + bn.bias.view(1, C, 1, 1)
        torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_starts_as_the_image_to_the_last_bit(train: bool) -> None:
    x = torch.randn(4, C, 4, 6)
    assert torch.equal(FeatureDifference(C).train(train)(x), x[::2])


def test_what_starts_at_zero_learns_in_the_first_step_and_fast() -> None:
    block = FeatureDifference(C)
    block(torch.randn(4, C, 4, 6)).square().sum().backward()
    assert block.fast_parameters == ("project.bn.weight",)
    assert block.project.bn.weight.grad.abs().max() > 0


def test_what_does_not_differ_adds_the_same_everywhere() -> None:
    block, x = shake(FeatureDifference(C)).eval(), torch.randn(1, C, 4, 6).repeat(2, 1, 1, 1)
    added = block(x) - x[::2]
    torch.testing.assert_close(added, added[..., :1, :1].expand_as(added), atol=1e-6, rtol=0)


def test_undoes_what_the_first_row_began() -> None:
    """Pairs stay pairs on their way through rows that know nothing of them."""
    image, reference = torch.rand(2, 3, C, 8, 8)
    block = shake(FeatureDifference(C)).eval()
    apart = Reference(C, "features")(torch.cat([image, reference], 1)).exp()
    for i in range(3):
        one = block(torch.stack([image[i], reference[i]]).exp())
        torch.testing.assert_close(block(apart)[i : i + 1], one)


def test_gradients_round_trips_and_export() -> None:
    def block() -> Any:
        return shake(FeatureDifference(C))

    assert_gradients_reach_all(block(), [torch.randn(4, C, 4, 6)])
    assert_round_trips(block(), FeatureDifference(C), [torch.randn(4, C, 4, 6)])
    assert_exports(block(), [torch.randn(2, C, 4, 6)], [torch.randn(2, C, 4, 6)])


def test_the_knockout_is_known() -> None:
    block, entry = FeatureDifference(C), catalogue()["difference-constant"]
    assert entry.find(block) == [block.project]
    assert entry.knockout.mean


@pytest.mark.parametrize("shape", [(3, C, 4, 4), (2, C + 1, 4, 4), (C, 4, 4)])
def test_maps_without_a_partner_are_refused(shape: tuple[int, ...]) -> None:
    expected = re.escape(f"FeatureDifference input: expected pairs of maps (2B, {C}, H, W), got {shape}")
    with pytest.raises(ShapeError, match=expected):
        FeatureDifference(C)(torch.randn(shape))


def test_row() -> None:
    plan = FeatureDifference.parse(RowContext("FeatureDifference", C, []))
    assert (plan.args, plan.c2) == ([C], C)


def test_wrong_arguments_are_refused() -> None:
    assert_refuses_others(FeatureDifference, channels=C)
