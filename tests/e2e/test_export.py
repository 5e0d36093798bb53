"""Exported files: they agree with torch, choose experts per image, and hold only what TensorRT 8.6 reads."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from ultralytics import YOLO

from ultra_dsmoe.errors import ConfigError, DataError, ShapeError
from ultra_dsmoe.export import parity_verdict
from ultra_dsmoe.export.images import drawn_images, split_images
from ultra_dsmoe.export.parity import ParityReport, compare, load_images
from ultra_dsmoe.export.runners import exported_runner, torch_runner
from ultra_dsmoe.export.static_experts import choose, route
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE

SIZE = 64
FORMATS = ["onnx", "torchscript", "openvino"]
Exported = Callable[[str], Path]

# Operators that occur in detectors, out of the list of TensorRT 8.6's ONNX parser; more may be added from there.
_TRT86 = """
Abs Add And ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv
ConvTranspose Cos DepthToSpace Div Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gemm
GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample HardSigmoid HardSwish Identity InstanceNormalization
LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Mean Min Mod Mul Neg Not OneHot Or Pad
Pow PRelu Range Reciprocal ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
Reshape Resize Round ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Slice Softmax Softplus Softsign
SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh Tile TopK Transpose Trilu Unsqueeze Where Xor
"""
TRT86 = frozenset(_TRT86.split())


@pytest.fixture(scope="module")
def images(boards: list[Path]) -> torch.Tensor:
    return load_images(boards, SIZE)


@pytest.fixture(scope="module")
def net(routed: Path) -> DSMoEModel:
    net: Any = YOLO(routed).model
    return net


# agreement ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", FORMATS)
def test_agrees_with_torch_and_chooses_the_same_experts(
    fmt: str, net: DSMoEModel, images: torch.Tensor, exported: Exported
) -> None:
    report = compare(net, exported(fmt), images)
    assert report.images == len(images) == 12
    assert report.experts_equal is True
    assert report.agrees(), str(report)
    assert len(set(report.routes)) > 1, "all images take one route: a frozen choice would pass"


def test_two_images_choose_different_experts_inside_the_file(
    net: DSMoEModel, images: torch.Tensor, exported: Exported
) -> None:
    run = exported_runner(exported("onnx"), gates=1)
    chosen = [frozenset(np.flatnonzero(run(image[None])[1][0][0])) for image in images]
    assert len(set(chosen)) > 1
    assert all(len(experts) == net.blocks(SparseMoE)[0].k for experts in chosen)


def test_end_to_end_file(
    boards: list[Path], make_routed: Callable[..., Path], images: torch.Tensor, tmp_path: Path
) -> None:
    net = DSMoEModel("yolo26n-dsmoe.yaml", nc=6, verbose=False)
    path = make_routed(net, images, tmp_path / "e2e.pt")
    file = YOLO(path).export(format="onnx", imgsz=SIZE, nms=False)
    report = compare(YOLO(path), file, images[:4])
    assert exported_runner(file)(images[:1])[0].shape == (1, 84, 6)
    assert report.agrees(), str(report)
    assert report.experts_equal is True


def test_predictor_finds_the_same_boxes_in_the_file(routed: Path, boards: list[Path], exported: Exported) -> None:
    kwargs = {"imgsz": SIZE, "conf": 1e-3, "rect": False, "verbose": False, "max_det": 20}
    torch_boxes = YOLO(routed).predict(boards[0], **kwargs)[0].boxes
    onnx_boxes = YOLO(exported("onnx"), task="detect").predict(boards[0], **kwargs)[0].boxes
    assert len(torch_boxes) > 0
    np.testing.assert_allclose(onnx_boxes.conf, torch_boxes.conf, atol=1e-4)
    np.testing.assert_allclose(onnx_boxes.xyxy, torch_boxes.xyxy, atol=0.01)


def test_dense_execution_is_exported_too(routed: Path, net: DSMoEModel, images: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "dense.pt"
    path.write_bytes(routed.read_bytes())
    file = YOLO(path).export(format="onnx", imgsz=SIZE, dsmoe_moe="dense")
    topks = [n for n in onnx.load(file).graph.node if n.op_type == "TopK"]
    assert len(topks) == 1, "the gate's alone: nothing is gathered"
    assert compare(net, file, images[:3]).agrees()


# static experts -------------------------------------------------------------------------------------------------------


def metadata(path: str | Path) -> dict[str, str]:
    return {p.key: p.value for p in onnx.load(path).metadata_props}


def test_static_file_keeps_what_the_validation_images_use(
    routed: Path, net: DSMoEModel, images: torch.Tensor, tiny_boards: Path, tmp_path: Path
) -> None:
    """The file agrees with torch; images whose experts are all kept get what gathered execution gives them."""
    path = tmp_path / "static.pt"
    path.write_bytes(routed.read_bytes())
    model, validation = YOLO(path), split_images(tiny_boards)
    (weights,) = route(net, validation, (SIZE, SIZE))
    wanted = next(c for c in (choose(weights, 5, keep) for keep in range(5, 32)) if c.image_share > 0)
    call = {"format": "onnx", "imgsz": SIZE, "dsmoe_moe": "static", "dsmoe_keep": len(wanted.kept)}
    file = model.export(**call, data=tiny_boards)
    assert model.model.blocks(SparseMoE)[0].mode == "gather"
    noted = metadata(file)
    (kept,) = literal_eval(noted["dsmoe_kept"])
    (coverage,) = literal_eval(noted["dsmoe_coverage"])
    assert (noted["dsmoe_moe"], noted["dsmoe_topk"], tuple(kept)) == ("static", "[5]", wanted.kept)
    assert coverage["images"] == len(validation) == 4
    routes = [frozenset(np.flatnonzero(torch_runner(net)(i[None])[1][0][0])) for i in images]
    assert coverage["image_share"] == sum(r <= set(kept) for r in routes[-4:]) / 4  # boards sort as train, val
    run, exported_route = exported_runner(file, gates=1), []
    for image, experts in zip(images, routes, strict=True):
        found, gates = run(image[None])
        exported_route.append(frozenset(np.flatnonzero(gates[0][0])))
        if experts <= set(kept):
            gathered, _ = torch_runner(net)(image[None])
            np.testing.assert_allclose(found, gathered, atol=0.01)
            assert exported_route[-1] == experts
        else:
            assert exported_route[-1] <= set(kept)
    assert 0 < sum(r <= set(kept) for r in routes) < len(routes), "no images of both kinds"
    model.model.set_moe_mode("static", [kept])
    assert compare(model, file, images).agrees()


def test_eager_static_is_the_exported_one(routed: Path, tiny_boards: Path, tmp_path: Path) -> None:
    path = tmp_path / "static.pt"
    path.write_bytes(routed.read_bytes())
    call = {"data": tiny_boards, "imgsz": SIZE, "batch": 1, "rect": False, "plots": False, "project": tmp_path}
    call.update(workers=0, device="cpu", verbose=False)
    values = [YOLO(path).val(dsmoe_moe=mode, **call).box.all_ap for mode in ("gather", "dense", "static")]
    np.testing.assert_allclose(values[0], values[1], atol=1e-6)
    file = YOLO(path).export(format="onnx", imgsz=SIZE, dsmoe_moe="static", data=tiny_boards)
    np.testing.assert_allclose(YOLO(file, task="detect").val(**call).box.all_ap, values[2], atol=1e-6)


# the gate -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["gather", "static"])
def test_a_dynamic_file_takes_other_sizes_and_batches(
    routed: Path, net: DSMoEModel, tiny_boards: Path, tmp_path: Path, mode: str
) -> None:
    path = tmp_path / "dynamic.pt"
    path.write_bytes(routed.read_bytes())
    model = YOLO(path)
    file = model.export(format="onnx", imgsz=SIZE, dynamic=True, dsmoe_moe=mode, data=tiny_boards)
    kept = literal_eval(metadata(file)["dsmoe_kept"]) if mode == "static" else None
    model.model.set_moe_mode(mode, kept)
    images = drawn_images(3, (SIZE + 32, SIZE))
    report = compare(model, file, images, batch=3)
    assert report.agrees(), str(report)
    assert report.experts_equal is True
    assert len(YOLO(file, task="detect").predict(images, imgsz=(SIZE + 32, SIZE), project=str(tmp_path))) == 3


def test_export_fails_where_the_file_moved(
    routed: Path, tiny_boards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gated.pt"
    path.write_bytes(routed.read_bytes())
    call = {"format": "onnx", "imgsz": SIZE, "batch": 2, "data": tiny_boards}
    assert YOLO(path).export(**call, dsmoe_parity="val") == str(tmp_path / "gated.onnx")
    monkeypatch.setitem(parity_verdict.LIMITS, 32, replace(parity_verdict.LIMITS[32], box_px=-1.0))
    good = (tmp_path / "gated.onnx").read_bytes()
    with pytest.raises(
        parity_verdict.ParityError, match=r"^gated.onnx: expected what the net gives, got boxes moved by"
    ):
        YOLO(path).export(**call)
    assert (tmp_path / "gated.onnx").read_bytes() == good, "a refused file took the place of a good one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gated.onnx", "gated.pt"]
    YOLO(path).export(**call, dsmoe_parity=False)
    assert (tmp_path / "gated.onnx").read_bytes() != good, "the date in its metadata"


@pytest.mark.realdata
def test_twenty_real_boards(
    shared_data: Callable[[str], Path], make_routed: Callable[..., Path], trained: Path, tmp_path: Path
) -> None:
    data = shared_data("DeepPCB-mini")
    size = 160
    images = load_images(sorted(p for p in data.parent.rglob("*") if p.suffix in {".jpg", ".png"})[:20], size)
    assert len(images) == 20
    path = make_routed(YOLO(trained / "weights" / "last.pt").model, images[:8], tmp_path / "real.pt")
    for fmt in ("onnx", "openvino", "torchscript"):
        report = compare(YOLO(path), YOLO(path).export(format=fmt, imgsz=size), images)
        assert report.agrees(), f"{fmt}: {report}"
        assert report.experts_equal is True
        assert len(set(report.routes)) > 1


# what the file holds --------------------------------------------------------------------------------------------------


def test_opset_and_operators_suit_tensorrt_86(exported: Exported) -> None:
    model = onnx.load(exported("onnx"))
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert {n.op_type for n in model.graph.node} <= TRT86
    assert not any(len(n.input) > 1 for n in model.graph.node if n.op_type in {"ReduceMean", "ReduceMax", "ReduceL2"})


def test_text_is_folded_into_constants(exported: Exported) -> None:
    model = onnx.load(exported("onnx"))
    shapes = [tuple(i.dims) for i in model.graph.initializer]
    assert not any(1536 in shape for shape in shapes), "the text vectors are in the file"
    assert len(model.graph.input) == 1


def test_static_shapes(exported: Exported) -> None:
    model = onnx.load(exported("onnx"))
    (out,) = model.graph.output
    assert [d.dim_value for d in out.type.tensor_type.shape.dim] == [1, 10, 84]
    assert not {n.op_type for n in model.graph.node} & {"NonZero", "If", "Loop", "Shape"}


# the comparison itself ------------------------------------------------------------------------------------------------


def tampered(path: Path, to: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(path)
    change(model)
    onnx.save(model, to)
    return to


def shift(model: onnx.ModelProto, initializer: str, by: float | np.ndarray) -> None:
    for i in model.graph.initializer:
        if i.name.endswith(initializer):
            i.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(i) + np.asarray(by, np.float32), i.name))
            return
    raise AssertionError(f"no initializer {initializer}")


def raise_scores(model: onnx.ModelProto, by: float) -> None:
    """Add ``by`` to all class logits, whatever branch they come from."""
    nodes = model.graph.node
    producer = {name: n for n in nodes for name in n.output}
    parts = [producer[i] for i in producer[model.graph.output[0].name].input if i in producer]
    (sigmoid,) = [n for n in parts if n.op_type == "Sigmoid"]
    model.graph.initializer.append(numpy_helper.from_array(np.float32([by]), "by"))
    nodes.insert(list(nodes).index(sigmoid), onnx.helper.make_node("Add", [sigmoid.input[0], "by"], ["raised"]))
    sigmoid.input[0] = "raised"


def test_a_wrong_box_and_a_wrong_score_are_seen(
    net: DSMoEModel, images: torch.Tensor, exported: Exported, tmp_path: Path
) -> None:
    box = tampered(exported("onnx"), tmp_path / "b.onnx", lambda m: shift(m, ".cv2.0.2.bias", 1e-2 * np.arange(64)))
    report = compare(net, box, images[:2])
    assert report.box_px > 0.01
    assert report.score < 1e-5
    assert not report.agrees()
    score = tampered(exported("onnx"), tmp_path / "s.onnx", lambda m: raise_scores(m, 6.0))
    report = compare(net, score, images[:2])
    assert report.box_px < 0.01 < report.score
    assert not report.agrees()


def test_another_expert_is_seen(net: DSMoEModel, images: torch.Tensor, exported: Exported, tmp_path: Path) -> None:
    def freeze(model: onnx.ModelProto) -> None:
        """Let the gate's softmax see a constant, as if a trace had kept one image's choice."""
        (node,) = [n for n in model.graph.node if n.op_type == "Softmax" and "/model.17/" in n.name]
        constant = numpy_helper.from_array(np.linspace(0, 1, 32, dtype=np.float32)[None], "frozen")
        model.graph.initializer.append(constant)
        node.input[0] = "frozen"

    report = compare(net, tampered(exported("onnx"), tmp_path / "f.onnx", freeze), images[:4])
    assert report.experts_equal is False
    assert not report.agrees()
    assert "OTHER EXPERTS" in str(report)


def test_a_file_that_hides_its_gate_is_said_to(images: torch.Tensor, exported: Exported) -> None:
    assert exported_runner(exported("onnx"), gates=2)(images[:1])[1] == []
    assert ParityReport(1, 0.0, 0.0, None, ()).agrees()
    assert "not shown" in str(ParityReport(1, 0.0, 0.0, None, ()))


def test_errors(net: DSMoEModel, images: torch.Tensor, exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"exported file: expected an existing .onnx .* got .*best.pt"):
        compare(net, tmp_path / "best.pt", images)
    with pytest.raises(DataError, match="images: expected at least one image, got none"):
        compare(net, exported("onnx"), images[:0])
    with pytest.raises(ShapeError, match=r"predictions of the exported file: expected shape \(1, 84, 84\)"):
        compare(DSMoEModel("dsmoe-n.yaml", nc=80, verbose=False), exported("onnx"), images)
    (tmp_path / "no.png").write_text("text")
    with pytest.raises(DataError, match="images: expected at least one picture"):
        load_images([tmp_path / "no.png"], SIZE)
    with pytest.raises(DataError, match="images: expected at least one picture"):
        load_images([], SIZE)


def test_images_are_letterboxed_rgb(tmp_path: Path) -> None:
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[..., 0] = 255  # blue, in OpenCV's order
    cv2.imwrite(str(tmp_path / "blue.png"), picture)
    (image,) = load_images([tmp_path / "blue.png"], SIZE)
    assert image[:, 32, 32].tolist() == [0, 0, 1]
    assert image[:, 2, 32].tolist() == pytest.approx([114 / 255] * 3)


# refusals before any work, and other channels -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "onnx", "opset": 13}, r"opset: expected 16 or higher for a net with SpaceBroadcast .*, got 13"),
        ({"format": "ncnn"}, r"format: expected onnx, openvino, .* for a net with experts, got ncnn, whose converter"),
        ({"format": "onnx", "quantize": "int4"}, r"quantize: expected one of 8, 16, 32"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    routed: Path, tmp_path: Path, arguments: Any, message: str
) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(routed.read_bytes())
    with pytest.raises(ConfigError, match=message):
        YOLO(path).export(imgsz=SIZE, **arguments)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("channels", [1, 4])
def test_nets_of_other_channels_are_exported(tmp_path: Path, channels: int) -> None:
    data = channel_boards(tmp_path / "data", channels)
    net = DSMoEModel("dsmoe-n.yaml", ch=channels, nc=2, verbose=False)
    net.names = {0: "a", 1: "b"}
    path = tmp_path / "best.pt"
    torch.save({"model": net.eval(), "train_args": {"task": "detect", "imgsz": SIZE}}, path)
    call = {"format": "onnx", "imgsz": SIZE, "simplify": False}
    drawn = onnx.load(YOLO(path).export(**call))
    assert drawn.graph.input[0].type.tensor_type.shape.dim[1].dim_value == channels
    static = YOLO(path).export(**call, data=data, dsmoe_moe="static")
    (coverage,) = literal_eval(metadata(static)["dsmoe_coverage"])
    assert coverage["images"] == 2, "the empty file counts"


def channel_boards(folder: Path, channels: int) -> Path:
    """Write a data set of three validation images, of which one is an empty file."""
    images = folder / "images" / "val"
    images.mkdir(parents=True)
    for number in range(2):
        picture = np.random.default_rng(number).integers(0, 256, (48, 64, channels), np.uint8)
        pages = [np.ascontiguousarray(picture[..., i]) for i in range(channels)]
        assert cv2.imwritemulti(str(images / f"{number}.tiff"), pages)
    (images / "empty.tiff").touch()
    data = folder / "data.yaml"
    data.write_text(f"path: {folder}\ntrain: images/val\nval: images/val\nchannels: {channels}\nnames: [a, b]\n")
    return data
