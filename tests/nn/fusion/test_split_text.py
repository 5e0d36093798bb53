"""SplitText: what is packed comes out again, images without text, normalisation, too few pixels, rows."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
import torch
from block_checks import assert_exports, assert_refuses_others, export_onnx, run_onnx

from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.nn import RowContext, SplitText

WIDTH, NUMBERS = 20, 5


def packed(vlm: Any, llm: Any, h: int = 8, w: int = 7) -> tuple[Any, Any]:
    """Return images and the four channels that carry them with two texts."""
    image, plane = torch.rand(len(vlm), 3, h, w), torch.zeros(len(vlm), h * w)
    plane[:, : vlm.shape[1]] = vlm
    plane[:, vlm.shape[1] : vlm.shape[1] + llm.shape[1]] = llm
    return image, torch.cat([image, plane.view(-1, 1, h, w)], 1)


def inputs(b: int = 2) -> Any:
    vlm, llm = torch.randn(b, WIDTH), torch.randn(b, WIDTH + NUMBERS)
    return vlm, llm, *packed(vlm, llm)


@pytest.mark.parametrize("b", [1, 3])
@pytest.mark.parametrize("train", [True, False])
def test_value(b: int, train: bool) -> None:
    vlm, llm, image, x = inputs(b)
    got = SplitText(WIDTH, NUMBERS).train(train)(x)
    assert all(torch.equal(a, wanted) for a, wanted in zip(got, (image, vlm, llm), strict=True))


def test_what_lies_behind_the_texts_is_not_read() -> None:
    vlm, llm, _, x = inputs()
    x[:, 3].flatten(1)[:, 2 * WIDTH + NUMBERS :] = torch.nan
    _, a, b = SplitText(WIDTH, NUMBERS)(x)
    assert torch.equal(a, vlm)
    assert torch.equal(b, llm)


def test_three_channels_have_no_text() -> None:
    image = torch.rand(2, 3, 2, 2)  # fewer pixels than a text is long
    got, *texts = SplitText(WIDTH)(image)
    assert torch.equal(got, image)
    assert texts == [None, None]


def test_imagenet_norm_by_hand_leaves_the_texts_alone() -> None:
    vlm, llm, image, x = inputs()
    got, a, b = SplitText(WIDTH, NUMBERS, "imagenet")(x)
    for i, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        torch.testing.assert_close(got[:, i], (image[:, i] - mean) / std)
    assert torch.equal(a, vlm)
    assert torch.equal(b, llm)


def test_a_block_has_nothing_to_save() -> None:
    block = SplitText(WIDTH, 0, "imagenet")
    assert not block.state_dict()
    _, _, _, x = inputs()
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert all(torch.equal(a, b) for a, b in zip(twin(x), block(x), strict=True))


def test_half_precision() -> None:
    _, _, _, x = inputs()
    block = SplitText(WIDTH, NUMBERS, "imagenet")
    wanted = block(x)
    for a, b in zip(copy.deepcopy(block).half()(x.half()), wanted, strict=True):
        assert a.dtype == torch.float16
        torch.testing.assert_close(a.float(), b, atol=5e-3, rtol=5e-3)


def test_gradients_reach_what_is_read() -> None:
    _, _, _, x = inputs()
    x.requires_grad_()
    sum(t.sum() for t in SplitText(WIDTH, NUMBERS)(x)).backward()
    used = 2 * WIDTH + NUMBERS
    assert (x.grad[:, :3] == 1).all()
    assert x.grad[:, 3].flatten(1)[0].tolist() == [1.0] * used + [0.0] * (8 * 7 - used)


def test_exports() -> None:
    class Parts(torch.nn.Module):
        """All that comes out, in one tensor."""

        def __init__(self) -> None:
            super().__init__()
            self.split = SplitText(WIDTH, NUMBERS, "imagenet")

        def forward(self, x: Any) -> Any:
            return torch.cat([part.flatten(1) for part in self.split(x) if part is not None], 1)

    assert_exports(Parts(), [inputs(1)[3]], [inputs(1)[3]])
    assert_exports(Parts(), [torch.rand(1, 3, 4, 4)], [torch.rand(1, 3, 4, 4)])
    session = export_onnx(Parts().eval(), [torch.rand(1, 3, 4, 4)])
    assert run_onnx(session, [torch.rand(1, 3, 4, 4)])[0].shape == (1, 48)


@pytest.mark.parametrize("norm", [None, "imagenet"])
def test_exactly_enough_pixels(norm: str | None) -> None:
    block = SplitText(WIDTH, 9, norm)  # 49 values, 7 x 7 pixels
    assert block(torch.rand(1, 4, 7, 7))[2].shape == (1, WIDTH + 9)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 6, 7), "SplitText input: expected at least 45 pixels for two texts of 20 and 5 numbers, got 6 x 7"),
        ((1, 1, 9, 9), "SplitText input: expected images (B, 3 or 4, H, W), got (1, 1, 9, 9)"),
        ((2, 5, 9, 9), "SplitText input: expected images (B, 3 or 4, H, W), got (2, 5, 9, 9)"),
        ((3, 9, 9), "SplitText input: expected images (B, 3 or 4, H, W), got (3, 9, 9)"),
    ],
)
def test_images_that_do_not_fit(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        SplitText(WIDTH, NUMBERS)(torch.zeros(shape))


def test_arguments() -> None:
    assert_refuses_others(SplitText, width=WIDTH)
    for wrong in (-1, 1.5, True, None, "5"):
        with pytest.raises(ConfigError, match=r"^SplitText numbers: expected a whole number of at least 0, got"):
            SplitText(WIDTH, wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"SplitText norm: expected one of None, imagenet \(did you mean 'imagenet'"):
        SplitText(WIDTH, 0, "imagnet")


@pytest.mark.parametrize("c1", [3, 4])
def test_parse_rule(c1: int) -> None:
    plan = SplitText.parse(RowContext("SplitText", c1, []))
    assert (plan.args, plan.c2, plan.kwargs, plan.repeats) == ([384, 0, None], [3, 384, 384], {}, 1)
    options = {"text_width": 64, "text_numbers": 11}
    plan = SplitText.parse(RowContext("SplitText", c1, ["imagenet"], options=options))
    assert (plan.args, plan.c2) == ([64, 11, "imagenet"], [3, 64, 75])


@pytest.mark.parametrize(
    ("ctx", "message"),
    [
        ({"c1": 1}, "model YAML row SplitText: expected an image of 3 or 4 channels, got 1"),
        ({"c1": [3, 4, 4]}, "model YAML row SplitText: expected 'from' with 1 inputs, got 3"),
        ({"options": {"text_width": 0}}, "dsmoe.text_width: expected a positive integer, got 0"),
        ({"options": {"text_numbers": -1}}, "dsmoe.text_numbers: expected a whole number of at least 0, got -1"),
    ],
)
def test_rows_that_are_wrong(ctx: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        SplitText.parse(RowContext(**{"name": "SplitText", "c1": 4, "args": [], **ctx}))
