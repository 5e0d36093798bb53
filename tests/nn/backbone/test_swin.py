"""Swin stage: windows, shifts, masks and position biases against plain loops over cells."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from block_checks import LEGACY, assert_exports, assert_gradients_reach_all, assert_round_trips, shake
from torch.nn.functional import gelu

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import RowContext, SwinStage
from ultra_dsmoe.nn.backbone.swin import SwinBlock, relative_index, separated

C = 64
SIZES = [(4, 4), (8, 8), (3, 2), (7, 6), (4, 9), (1, 1)]  # one window, four, and maps that have to be padded


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("b", [1, 2])
def test_shape(size: Any, b: int) -> None:
    x = torch.randn(b, C, *size)
    assert SwinStage(C, 3, 4)(x).shape == x.shape


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((48,), "SwinStage c: expected channels that are a multiple of 32, got 48"),
        ((0,), "SwinStage c: expected a positive integer, got 0"),
        ((32, True), "SwinStage depth: expected a positive integer, got True"),
        ((32, 2, 2.5), "SwinStage window: expected a positive integer, got 2.5"),
    ],
)
def test_errors(args: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SwinStage(*args)
    with pytest.raises(ConfigError, match="'from' with 1 inputs"):
        SwinStage.parse(RowContext("SwinStage", [32, 32], []))


def test_relative_index_by_hand() -> None:
    """A window of 2: nine offsets, from (-1, -1) at place 0 to (1, 1) at place 8."""
    wanted = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    assert relative_index(2).tolist() == wanted


def test_separated_by_hand() -> None:
    assert not separated(2, 2, 2, 0, 0).any()
    # Four rows and one column, shifted by one: windows of rows 1, 2 and of rows 3, 0, which lie at opposite borders.
    # The second column is padding.
    cells = [[(1, 0), (1, 1), (2, 0), (2, 1)], [(3, 0), (3, 1), (0, 0), (0, 1)]]
    apart = separated(4, 1, 2, 1, 0)
    for window, places in enumerate(cells):
        for i, (y, x) in enumerate(places):
            for j, (v, u) in enumerate(places):
                if x == 0:  # what padding sees is cut off
                    assert apart[window, i, j] == (u == 1 or {y, v} == {0, 3})


def group(i: Any, size: Any, window: Any, shift: Any) -> Any:
    """Return the number of the window that a cell of the map lies in, windows at the border being cut off."""
    if size <= window:
        return 0
    return i // window if not shift else 0 if i < shift else 1 + (i - shift) // window


def attention_by_loops(block: Any, x: Any) -> Any:
    """Return WMSA of one map (H, W, C), cell by cell."""
    h, w, c = x.shape
    n, d = c // 32, 32
    q, k, v = block.qkv(x).view(h, w, 3, n, d).unbind(2)
    out = torch.zeros(h, w, n, d)
    cells = [(i, j) for i in range(h) for j in range(w)]
    places = {
        (i, j): (group(i, h, block.window, block.shift), group(j, w, block.window, block.shift)) for i, j in cells
    }
    for i, j in cells:
        seen = [cell for cell in cells if places[cell] == places[i, j]]
        for head in range(n):
            bias = [block.relative_bias[head, i - y + block.window - 1, j - z + block.window - 1] for y, z in seen]
            logits = torch.stack(
                [q[i, j, head] @ k[y, z, head] / d**0.5 + b for (y, z), b in zip(seen, bias, strict=True)]
            )
            out[i, j, head] = logits.softmax(0) @ torch.stack([v[y, z, head] for y, z in seen])
    return block.proj(out.reshape(h, w, c))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 2])
@torch.no_grad()
def test_value(size: Any, shift: int) -> None:
    block = shake(SwinBlock(C, 4, shift)).eval()
    torch.nn.init.normal_(block.relative_bias)
    x = torch.randn(2, *size, C)
    wanted = torch.stack([attention_by_loops(block, image) for image in block.norm1(x)])
    torch.testing.assert_close(block.windows(block.norm1(x)), wanted, atol=1e-5, rtol=1e-4)
    y = x + wanted
    up, _, down = block.mlp
    y = y + down(gelu(up(block.norm2(y))))
    torch.testing.assert_close(block(x), y, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(4, 4), (3, 4)])
def test_limits_one_window_is_plain_attention_whatever_the_shift(size: Any) -> None:
    still, moved = shake(SwinBlock(C, 4)).eval(), SwinBlock(C, 4, 2).eval()
    moved.load_state_dict(still.state_dict())
    x = torch.randn(1, *size, C)
    assert torch.equal(moved(x), still(x))
    if size == (4, 4):
        plain = torch.nn.MultiheadAttention(C, C // 32, batch_first=True)
        plain.in_proj_weight, plain.in_proj_bias, plain.out_proj = still.qkv.weight, still.qkv.bias, still.proj
        tokens = x.reshape(1, 16, C)
        bias = still.relative_bias.flatten(1)[:, still.relative_index]
        torch.testing.assert_close(
            still.windows(x).reshape(1, 16, C), plain(tokens, tokens, tokens, attn_mask=bias)[0], atol=1e-5, rtol=1e-4
        )


def test_shift_lets_neighbouring_windows_speak() -> None:
    x = torch.randn(1, C, 8, 8)
    y = x.clone()
    y[:, ::2, 0, 0] += 10  # not all channels: the norm takes away what they share
    one, two = (shake(SwinStage(C, depth, 4)).eval() for depth in (1, 2))
    reached = [((stage(x) - stage(y)).abs().amax((0, 1)) > 1e-6) for stage in (one, two)]
    assert reached[0][:4, :4].all()
    assert not reached[0][4:].any()
    assert not reached[0][:, 4:].any()
    assert reached[1][:6, :6].all(), "the second block's windows lie across the first one's borders"
    assert not reached[1][6:].any(), "nothing passes from border to border"


def test_every_second_block_is_shifted() -> None:
    assert [b.shift for b in SwinStage(32, 4, 5).blocks] == [0, 2, 0, 2]
    assert [b.shift for b in SwinStage(32, 2, 1).blocks] == [0, 0]


def test_biases_are_no_matrix() -> None:
    """The host's MuSGD makes every parameter of two or four axes orthogonal."""
    (bias,) = [p for name, p in SwinBlock(C).named_parameters() if name == "relative_bias"]
    assert bias.ndim == 3
    assert bias.std().item() == pytest.approx(0.02, rel=0.2)


def test_gradients() -> None:
    assert_gradients_reach_all(shake(SwinStage(C, 2, 4)), [torch.randn(2, C, 7, 6)])
    stage = SwinStage(32, 2, 2).double().eval()
    assert torch.autograd.gradcheck(stage, torch.randn(1, 32, 3, 2, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("size", SIZES)
def test_exports(size: Any) -> None:
    assert_exports(shake(SwinStage(C, 2, 4)), [torch.randn(1, C, *size)], [3 * torch.randn(1, C, *size)])


def test_round_trips() -> None:
    assert_round_trips(shake(SwinStage(C)), SwinStage(C), [torch.randn(2, C, 7, 6)])
    stage, x = shake(SwinStage(C)).eval(), torch.randn(1, C, 7, 6)
    wanted = stage(x)
    torch.testing.assert_close(stage.bfloat16()(x.bfloat16()).float(), wanted, atol=0.2, rtol=0.05)
    half = stage.half()(x.half())
    assert half.dtype == torch.float16
    assert np.isfinite(half.detach().numpy()).all()


def test_parse_rule() -> None:
    plan = SwinStage.parse(RowContext("SwinStage", 96, [4, 7], n=3))
    assert (plan.args, plan.c2, plan.repeats) == ([96, 4, 7], 96, 1)
    assert SwinStage.parse(RowContext("SwinStage", 96, [])).args == [96, 2, 5]


def test_exported_batch_may_vary_and_another_size_fails(tmp_path: Path) -> None:
    stage, x = shake(SwinStage(C, 2, 4)).eval(), torch.randn(1, C, 7, 6)
    torch.onnx.export(
        stage,
        (x,),
        tmp_path / "stage.onnx",
        opset_version=17,
        input_names=["x"],
        dynamic_axes={"x": {0: "batch", 2: "height", 3: "width"}},
        **LEGACY,
    )
    session = onnxruntime.InferenceSession(tmp_path / "stage.onnx", providers=["CPUExecutionProvider"])
    three = torch.randn(3, C, 7, 6)
    got = session.run(None, {"x": three.numpy()})[0]
    np.testing.assert_allclose(got, stage(three).detach().numpy(), atol=1e-4, rtol=0)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail):
        session.run(None, {"x": torch.randn(1, C, 14, 12).numpy()})
