"""Reference: every form by hand, colours and gray, limits, blank references, knock-outs, errors, export."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
import torch
from block_checks import assert_exports, assert_gradients_reach_all, assert_round_trips, shake
from torch import Tensor

from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.explain.catalogue import catalogue
from ultra_dsmoe.nn import Record, Reference, RowContext
from ultra_dsmoe.nn.registry import plan_row
from ultra_dsmoe.ops.window_difference import window_difference

FORMS = ["pack", "local", "conv", "conv-local", "features"]
PACKED, MIXED = FORMS[:2], FORMS[2:4]
CHANNELS = [1, 3, 4]


def pairs(channels: int = 3, b: int = 2, h: int = 8, w: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, references, and both stacked."""
    image, reference = torch.rand(2, b, channels, h, w)
    return image, reference, torch.cat([image, reference], 1)


def gray(x: Tensor) -> Tensor:
    if x.shape[1] == 3:
        return 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    return x.mean(1, keepdim=True)


def by_hand(form: str, image: Tensor, reference: Tensor, window: int = 3) -> Tensor:
    g, r = gray(image), gray(reference)
    d = window_difference(g, r, window) if form.endswith("local") else (g - r).abs()
    return torch.cat([g, r, d], 1)


@pytest.mark.parametrize("b", [1, 3])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("form", PACKED)
def test_value_of_the_packed_forms(form: str, channels: int, b: int) -> None:
    image, reference, x = pairs(channels, b)
    got = Reference(channels, form)(x)
    assert got.shape == (b, 3, 8, 12)
    torch.testing.assert_close(got, by_hand(form, image, reference))


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("form", MIXED)
def test_value_of_the_mixed_forms(form: str, channels: int) -> None:
    """Three channels of one, as pretrained nets have; others are kept."""
    image, reference, x = pairs(channels)
    block: Any = shake(Reference(channels, form), 0.5)
    wanted = image + torch.einsum("oc,bchw->bohw", block.mix, by_hand(form, image, reference))
    assert wanted.shape[1] == block.handed_on == (3 if channels == 1 else channels)
    torch.testing.assert_close(block(x), wanted)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("form", MIXED)
def test_the_mixed_forms_start_as_the_image_to_the_last_bit(form: str, channels: int) -> None:
    image, _, x = pairs(channels)
    block = Reference(channels, form)
    assert torch.equal(block(x), image.expand(-1, block.handed_on, -1, -1))
    block(x).square().sum().backward()
    assert block.fast_parameters == ("mix",), "what starts at zero learns fast"
    assert block.mix.grad.abs().min() > 0, "and in the first step"


def test_features_hand_on_image_and_reference_in_turn() -> None:
    image, reference, x = pairs(4, b=3)
    got = Reference(4, "features")(x)
    assert torch.equal(got[::2], image)
    assert torch.equal(got[1::2], reference)


@pytest.mark.parametrize(("form", "window"), [("pack", None), ("local", 3), ("local", 5)])
def test_limits_of_the_difference(form: str, window: int | None) -> None:
    image, _, _ = pairs(3, h=20, w=20)
    block = Reference(3, form, window)
    assert not block(torch.cat([image, image], 1))[:, 2].any(), "an image that is its own reference"
    shift = (window or 3) // 2
    shifted = block(torch.cat([image, image.roll(shift, 3)], 1))[:, 2, :, shift:-shift]
    assert (shifted.max() == 0) == (form == "local")


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("form", PACKED)
def test_without_a_reference_the_difference_is_the_image(form: str, channels: int) -> None:
    image, _, x = pairs(channels)
    x[:, channels:] = 0
    g = gray(image)
    torch.testing.assert_close(Reference(channels, form)(x), torch.cat([g, torch.zeros_like(g), g], 1))


def test_white_is_white_and_every_channel_counts() -> None:
    block = Reference(3, "pack")
    torch.testing.assert_close(block(torch.ones(1, 6, 4, 4))[:, :2], torch.ones(1, 2, 4, 4))
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        x = torch.zeros(1, 6, 2, 2)
        x[:, channel] = 1
        torch.testing.assert_close(block(x)[0, :, 0, 0], torch.tensor([weight, 0, weight]))


def test_the_window_is_used() -> None:
    *_, x = pairs()
    d3, d5 = (Reference(3, "local", w)(x)[:, 2] for w in (3, 5))
    assert (d5 <= d3).all()
    assert d5.sum() < d3.sum()
    assert torch.equal(Reference(3, "local")(x)[:, 2], d3), "the default"


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_is_near(form: str) -> None:
    *_, x = pairs()
    block = shake(Reference(3, form))
    half = copy.deepcopy(block).half()(x.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), block(x), atol=3e-3, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_only_what_is_learned_is_saved(form: str) -> None:
    assert set(Reference(3, form).state_dict()) == ({"mix"} if form in MIXED else set())


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("form", FORMS)
def test_gradients_round_trips_and_export(form: str, channels: int) -> None:
    def block() -> Any:
        return shake(Reference(channels, form))

    *_, x = pairs(channels)
    assert_gradients_reach_all(block(), [x])
    assert_round_trips(block(), Reference(channels, form), [pairs(channels)[2]])
    assert_exports(block(), [pairs(channels, 1)[2]], [pairs(channels, 1)[2]])
    twin = pickle.loads(pickle.dumps(block()))
    assert (twin.channels, twin.form) == (channels, form)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 2, 8, 8), (2, 12, 8, 8), (6, 8, 8)])
def test_other_channels_are_refused(shape: tuple[int, ...]) -> None:
    expected = re.escape(f"Reference input: expected images with their references (B, 6, H, W), got {shape}")
    with pytest.raises(ShapeError, match=expected):
        Reference(3)(torch.rand(shape))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((0,), "Reference channels: expected a positive integer, got 0"),
        ((3, "packed"), r"Reference form: expected one of pack, local, .*did you mean 'pack'\?\), got packed"),
        ((3, "local", 4), "Reference window: expected an odd number of pixels from 3 on, got 4"),
        ((3, "local", 1), "Reference window: expected an odd number of pixels from 3 on, got 1"),
        ((3, "conv-local", True), "Reference window: expected an odd number of pixels from 3 on, got True"),
        ((3, "pack", 3), "Reference window: expected a window for the local forms alone, not for 'pack', got 3"),
    ],
)
def test_wrong_arguments_are_refused(args: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Reference(*args)


def test_rows() -> None:
    def plan(c1: Any, *args: Any) -> tuple[list[Any], Any]:
        plan = plan_row(RowContext("Reference", c1, list(args)))
        return plan.args, plan.c2

    assert plan(6) == ([3, "pack", None], 3)
    assert plan(2, "conv") == ([1, "conv", None], 3)
    assert plan(8, "conv-local", 5) == ([4, "conv-local", 5], 4)
    assert plan(8, "features") == ([4, "features", None], 4)
    with pytest.raises(ConfigError, match="an image and its reference, an even number of channels, got 3"):
        plan(3)
    with pytest.raises(ConfigError, match="Reference form: expected one of pack"):
        plan(6, "gray")


# knock-outs -----------------------------------------------------------------------------------------------------------


def switched(name: str, block: Reference, *batches: Tensor) -> list[Tensor]:
    with catalogue()[name].switch(block, Record(), 0):
        return [block(x) for x in batches]


@pytest.mark.parametrize("form", FORMS)
def test_knockouts_change_the_reference_alone(form: str) -> None:
    image, reference, x = pairs(3, b=3)
    block: Any = shake(Reference(3, form))
    before = block(x)
    changed = {
        "reference-blank": torch.zeros_like(reference),
        "reference-same": image,
        "reference-shuffled": reference.roll(1, 0),
    }
    for name, other in changed.items():
        (got,) = switched(name, block, x)
        assert torch.equal(got, block(torch.cat([image, other], 1))), name
        assert not torch.equal(got, before)
    assert torch.equal(block(x), before)


def test_a_batch_of_one_gets_the_reference_of_the_batch_before() -> None:
    block = Reference(3)
    batches = [pairs(3, b=1)[2], pairs(3, b=1, h=16, w=8)[2], pairs(3, b=2, h=16, w=8)[2]]
    first, second, third = switched("reference-shuffled", block, *batches)
    assert torch.equal(first, block(batches[0])), "there is no other yet"
    resized = torch.nn.functional.interpolate(batches[0][:, 3:], (16, 8))
    assert torch.equal(second, block(torch.cat([batches[1][:, :3], resized], 1)))
    others = torch.cat([batches[1][:, 3:], batches[2][:1, 3:]])
    assert torch.equal(third, block(torch.cat([batches[2][:, :3], others], 1)))
