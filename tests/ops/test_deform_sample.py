"""Deformable sampling against torchvision's operator, tap order and borders by hand."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

from ultra_dsmoe.ops.deform_sample import TAPS, deform_sample, deform_sum

HALF_ON_CPU = torch.__version__ >= "2.5"


def torchvision_offsets(offset_px: Any, dilation: Any) -> Any:
    """Offsets of `deform_sample` as torchvision wants them: (dy, dx) tap by tap, dilation of 1 already taken off."""
    b, _, h, w = offset_px.shape
    tap = torch.arange(3.0) - 1
    dx = offset_px[:, :TAPS] + (dilation - 1) * tap.repeat(3).view(1, TAPS, 1, 1)
    dy = offset_px[:, TAPS:] + (dilation - 1) * tap.repeat_interleave(3).view(1, TAPS, 1, 1)
    return torch.stack([dy, dx], 2).reshape(b, 2 * TAPS, h, w)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (1, 4, 6, 2)])
def test_shape(shape: Any) -> None:
    b, c, h, w = shape
    tiles = deform_sample(torch.randn(shape), torch.zeros(b, 18, h, w), torch.ones(b, 9, h, w), torch.ones(b, 1, h, w))
    assert tiles.shape == (b, c, 3 * h, 3 * w)


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 4, 6, 10), (3, 1, 4, 4)])
def test_matches_torchvision(shape: Any) -> None:
    b, c, h, w = shape
    x, weight = torch.randn(shape), torch.randn(6, c, 3, 3)
    offset, mask = 2 * torch.randn(b, 18, h, w), torch.rand(b, 9, h, w)
    dilation = 1 + torch.rand(b, 1, h, w)
    wanted = deform_conv2d(x, torchvision_offsets(offset, dilation), weight, padding=1, mask=mask)
    got = F.conv2d(deform_sample(x, offset, mask, dilation), weight, stride=3)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("r", [1, 2])
def test_is_a_dilated_convolution_without_offsets(r: int) -> None:
    x, weight = torch.randn(2, 3, 9, 8), torch.randn(5, 3, 3, 3)
    tiles = deform_sample(x, torch.zeros(2, 18, 9, 8), torch.ones(2, 9, 9, 8), torch.full((2, 1, 9, 8), float(r)))
    wanted = F.conv2d(x, weight, padding=r, dilation=r)
    torch.testing.assert_close(F.conv2d(tiles, weight, stride=3), wanted, atol=1e-5, rtol=1e-5)


def test_taps_by_hand() -> None:
    """A tile holds the 3x3 neighbourhood row by row; one offset of +1 in x moves that tap alone one pixel right."""
    x = torch.arange(20.0).view(1, 1, 4, 5)
    offset = torch.zeros(1, 18, 4, 5)
    offset[:, 3] = 1  # tap 3: left neighbour of the middle row
    mask = torch.ones(1, 9, 4, 5)
    mask[:, 8] = 0.5
    tile = deform_sample(x, offset, mask, torch.ones(1, 1, 4, 5))[0, 0, 3:6, 6:9]  # of position (1, 2)
    torch.testing.assert_close(tile, torch.tensor([[1.0, 2, 3], [7, 7, 8], [11, 12, 6.5]]))
    offset[:, 3], offset[:, TAPS + 3] = 0, 1  # the same in y: one pixel down
    tile = deform_sample(x, offset, mask, torch.ones(1, 1, 4, 5))[0, 0, 3:6, 6:9]
    assert tile[1, 0] == 11


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (2, 3, 7, 5)])
def test_products_may_come_first(shape: Any) -> None:
    b, c, h, w = shape
    x, weight = torch.randn(shape), torch.randn(2, c, 3, 3)
    where = 2 * torch.randn(b, 18, h, w), torch.rand(b, 9, h, w), 1 + torch.rand(b, 1, h, w)
    first = F.conv2d(x, weight.permute(2, 3, 0, 1).reshape(2 * TAPS, c, 1, 1))
    wanted = F.conv2d(deform_sample(x, *where), weight, stride=3)
    torch.testing.assert_close(deform_sum(first, *where), wanted, atol=1e-5, rtol=1e-5)


def test_zero_outside() -> None:
    x = torch.ones(1, 1, 3, 3)
    far = torch.full((1, 18, 3, 3), 50.0)
    assert not deform_sample(x, far, torch.ones(1, 9, 3, 3), torch.ones(1, 1, 3, 3)).any()
    border = deform_sample(x, torch.zeros(1, 18, 3, 3), torch.ones(1, 9, 3, 3), torch.ones(1, 1, 3, 3))
    assert border[0, 0, :3, :3].sum() == pytest.approx(4)  # the corner sees itself and three neighbours


def test_gradcheck() -> None:
    torch.manual_seed(3)
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    offset = (0.3 + 0.2 * torch.rand(1, 18, 3, 4, dtype=torch.float64)).requires_grad_()  # away from whole pixels
    mask = torch.rand(1, 9, 3, 4, dtype=torch.float64, requires_grad=True)
    dilation = (1.05 + 0.05 * torch.rand(1, 1, 3, 4, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(deform_sample, (x, offset, mask, dilation))


@pytest.mark.skipif(not HALF_ON_CPU, reason="this torch samples in half precision on a GPU only")
def test_half_precision_samples_near_the_same_place() -> None:
    x, offset = torch.randn(1, 2, 20, 20), torch.randn(1, 18, 20, 20)
    mask, dilation = torch.ones(1, 9, 20, 20), torch.ones(1, 1, 20, 20)
    got = deform_sample(x.half(), offset, mask.half(), dilation)
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), deform_sample(x, offset, mask, dilation), atol=0.06, rtol=0)


@pytest.mark.skipif(not HALF_ON_CPU, reason="this torch samples in half precision on a GPU only")
@pytest.mark.parametrize("width", [40, 160, 750, 1500, 2000])
@pytest.mark.parametrize("sampler", [deform_sample, deform_sum])
def test_half_precision_finds_the_place_on_maps_of_any_width(sampler: Any, width: Any) -> None:
    """A sawtooth of slope 1 tells where a sample lies: to a hundredth of a pixel, of which the values leave 1/256."""
    column = torch.arange(float(width)) % 8
    x = column.expand(1, 1 if sampler is deform_sample else TAPS, 1, width)
    offset, mask = torch.zeros(1, 18, 1, width), torch.zeros(1, 9, 1, width)
    offset[:, 4], mask[:, 4] = 0.25, 1  # the middle tap alone, a quarter to the right
    where = offset.half(), mask.half(), torch.ones(1, 1, 1, width).half()
    found = sampler(x.half(), *where)
    assert found.dtype == torch.float16
    found = found[0, 0, 1, 1::3] if sampler is deform_sample else found[0, 0, 0]
    inside = column < 7  # where the tooth does not end
    inside[-1] = False
    assert (found.float() - column - 0.25)[inside].abs().max() < 0.01


class Sampler(torch.nn.Module):
    """Samples in half precision inside a graph of single precision, as a file of half precision does."""

    def forward(self, x: Any, offset: Any, mask: Any, dilation: Any) -> Any:
        return deform_sample(x.half(), offset.half(), mask.half(), dilation.half()).float()


@pytest.mark.parametrize("half", [True, False])
def test_exported_grid_sample_has_inputs_of_one_type(half: Any, tmp_path: Any) -> None:
    """TensorRT wants both of one type; single precision needs no cast for it."""
    onnx = pytest.importorskip("onnx")
    module = Sampler() if half else Plain()
    inputs = torch.randn(1, 2, 4, 5), torch.randn(1, 18, 4, 5), torch.ones(1, 9, 4, 5), torch.ones(1, 1, 4, 5)
    torch.onnx.export(module, inputs, str(tmp_path / "a.onnx"), opset_version=17, dynamo=False)
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "a.onnx")).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    (node,) = (n for n in graph.node if n.op_type == "GridSample")
    assert {types[name] for name in node.input} == {onnx.TensorProto.FLOAT}
    assert types[node.output[0]] == onnx.TensorProto.FLOAT
    casts = [n.op_type for n in graph.node if n.op_type == "Cast" and types.get(n.input[0]) == onnx.TensorProto.FLOAT]
    assert bool(casts) == half


class Plain(torch.nn.Module):
    """Samples in single precision."""

    def forward(self, x: Any, offset: Any, mask: Any, dilation: Any) -> Any:
        return deform_sample(x, offset, mask, dilation)
