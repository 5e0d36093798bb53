"""INT8 by explicit Q/DQ: where the rule allows it and nowhere else, near FP32, and only for files that it suits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from ultra_dsmoe import commands
from ultra_dsmoe.edge.lint import lint
from ultra_dsmoe.errors import ConfigError, DataError, DSMoEError, WeightsError
from ultra_dsmoe.export.openvino_folder import save_openvino
from ultra_dsmoe.export.quantize import Quantized, int8_convolutions, quantize
from ultra_dsmoe.export.runners import exported_runner
from ultra_dsmoe.runtime.detections import network_input
from ultra_dsmoe.runtime.model_file import read_onnx

Export = Callable[..., Path]
# All experts: a fresh router is so undecided that noise would change its choice.
NETS = {"yolov8n.yaml": {}, "dsmoe-n.yaml": {"dsmoe_topk": 32}}
SIZE = 96


def image_blocks(seed: int, count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (count, 20, 16, 3), np.uint8)
    return list(small.repeat(6, 1).repeat(6, 2))


def run(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


@pytest.fixture(scope="session")
def int8(exported: Export, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Quantized]]:
    """Return a function that exports a net and quantizes it, once each."""
    folder = tmp_path_factory.mktemp("int8")
    made: dict[str, tuple[Path, Quantized]] = {}

    def make(yaml: str, target: str = "tensorrt") -> tuple[Path, Quantized]:
        key = f"{Path(yaml).stem}-{target}"
        if key not in made:
            source = exported(yaml, opset=17, simplify=True, **NETS[yaml])
            made[key] = source, quantize(source, image_blocks(1, 12), folder / f"{key}.onnx", target=target)
        return made[key]

    return make


# the rule on small graphs ---------------------------------------------------------------------------------------------


def graph(
    *nodes: tuple[str, list[str], list[str]], outputs: str = "out", **weights: tuple[int, ...]
) -> onnx.ModelProto:
    """Build a model from (operator, inputs, outputs); weights are drawn, the input is `x` (1, 4, 8, 8)."""
    generator = np.random.default_rng(0)
    constants = [numpy_helper.from_array(generator.normal(size=s).astype(np.float32), n) for n, s in weights.items()]
    made = [
        helper.make_node(op, inputs, outs, name=outs[0], **({"axis": 1} if op in ("Concat", "Softmax") else {}))
        for op, inputs, outs in nodes
    ]
    free = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs.split()]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])
    return helper.make_model(helper.make_graph(made, "g", [image], free, constants))


W = {"w": (4, 4, 1, 1), "v": (4, 4, 1, 1)}
A, B = ("Conv", ["x", "w"], ["a"]), ("Conv", ["s", "v"], ["out"])


@pytest.mark.parametrize(
    ("nodes", "allowed"),
    [
        ([A, ("Relu", ["a"], ["s"]), B], ["a"]),  # the second is an output
        ([A, ("Relu", ["a"], ["s"]), ("Conv", ["s", "v"], ["b"]), ("Sigmoid", ["b"], ["out"])], ["a"]),
        ([A, ("Softmax", ["a"], ["s"]), B], []),
        ([A, ("LayerNormalization", ["a", "scale"], ["s"]), B], []),
        ([A, ("GridSample", ["a", "grid"], ["s"]), B], []),
        ([A, ("Tanh", ["a"], ["t"]), ("GridSample", ["y", "t"], ["s"]), B], []),
        ([A, ("ReduceL2", ["a"], ["t"]), ("Concat", ["a", "t"], ["s"]), B], []),
        ([A, ("Conv", ["x", "v"], ["b"]), ("MatMul", ["a", "b"], ["t"]), ("Softmax", ["t"], ["out"])], ["a", "b"]),
        ([("Conv", ["x", "x"], ["a"]), ("Relu", ["a"], ["s"]), B], []),  # weights that are computed
        ([("GlobalAveragePool", ["x"], ["p"]), ("Conv", ["p", "w"], ["a"]), ("Mul", ["a", "x"], ["s"]), B], []),
        ([A, ("Relu", ["a"], ["s"]), B, ("Log", ["a"], ["m"])], []),  # one branch is enough
    ],
)
def test_rule(nodes: list[Any], allowed: list[str]) -> None:
    assert int8_convolutions(graph(*nodes, **W)) == allowed


# the nets -------------------------------------------------------------------------------------------------------------


def reads(node: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> list[str]:
    return [producers[i].op_type for i in node.input if i in producers]


@pytest.mark.parametrize("yaml", NETS)
def test_only_allowed_nodes_carry_qdq(yaml: str, int8: Callable[..., tuple[Path, Quantized]]) -> None:
    source, made = int8(yaml)
    model = onnx.load(made.path)
    assert set(made.int8) == set(int8_convolutions(onnx.load(source)))
    producers = {o: n for n in model.graph.node for o in n.output}
    for node in model.graph.node:
        read = reads(node, producers)
        if node.name in made.int8:
            assert node.op_type == "Conv"
            assert read[:2] == ["DequantizeLinear", "DequantizeLinear"], node.name
        elif node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            assert "DequantizeLinear" not in read, node.name
    assert "DequantizeLinear" not in {producers[o.name].op_type for o in model.graph.output}


@pytest.mark.parametrize("yaml", NETS)
def test_form_that_tensorrt_reads(yaml: str, int8: Callable[..., tuple[Path, Quantized]]) -> None:
    _, made = int8(yaml)
    model = onnx.load(made.path)
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    producers = {o: n for n in model.graph.node for o in n.output}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constants[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
        if node.op_type == "DequantizeLinear":
            assert producers[node.input[0]].op_type == "QuantizeLinear"  # also the weights'
        if node.name in made.int8:
            weight = producers[producers[node.input[1]].input[0]]
            kernel = constants[weight.input[0]]
            assert kernel.dtype == np.float32
            assert constants[weight.input[1]].shape == (len(kernel),)  # one scale per output channel
            assert all(i in constants for i in node.input[2:])  # biases as they were
    assert {o.version for o in model.opset_import if not o.domain} == {17}
    onnx.checker.check_model(model)
    assert not [finding for finding in lint(made.path) if finding.is_fault]


def test_what_stays_in_floating_point(int8: Callable[..., tuple[Path, Quantized]]) -> None:
    """By the blocks that they belong to: a changed net or rule is seen."""
    _, made = int8("dsmoe-n.yaml")
    head = [name for name in made.floating if name.endswith(".2/Conv")]
    assert len([name for name in head if "/mlp/" not in name]) == 3  # box outputs; a product gives the classes
    assert any("/offset_pw/" in name for name in made.floating)  # where to sample
    assert not any("/offset_pw/" in name or "/dfl/" in name for name in made.int8)
    assert len(made.int8) > 3 * len(made.floating)


@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
@pytest.mark.parametrize("yaml", NETS)
def test_output_stays_near_fp32(target: str, yaml: str, int8: Callable[..., tuple[Path, Quantized]]) -> None:
    """A fresh net with amplified outputs: noise shows more than in a trained one."""
    source, made = int8(yaml, target)
    images = network_input(image_blocks(2, 1), (SIZE, SIZE))
    expected, found = run(source, images), run(made.path, images)
    assert not np.array_equal(expected, found)
    assert np.corrcoef(expected[:, 4:].ravel(), found[:, 4:].ravel())[0, 1] > 0.9
    assert np.abs(expected[:, :4] - found[:, :4]).mean() < 0.05 * SIZE


def test_metadata_stay(int8: Callable[..., tuple[Path, Quantized]], pictures: dict[str, np.ndarray]) -> None:
    from ultra_dsmoe.runtime.detector import Runtime

    source, made = int8("dsmoe-n.yaml")
    file = read_onnx(made.path)
    assert file.quantized
    assert read_onnx(source).metadata.items() <= file.metadata.items()
    assert Runtime(made.path).predict(pictures["square"], conf=0.01)


def test_openvino_computes_the_same(int8: Callable[..., tuple[Path, Quantized]]) -> None:
    openvino = pytest.importorskip("openvino")
    _, made = int8("dsmoe-n.yaml", "cpu")
    images = network_input(image_blocks(2, 1), (SIZE, SIZE))
    compiled = openvino.Core().compile_model(str(made.path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    operators = [op.get_type_name() for op in openvino.Core().read_model(str(made.path)).get_ordered_ops()]
    assert operators.count("FakeQuantize") >= len(made.int8)
    found, expected = compiled([images])[0], run(made.path, images)
    assert np.corrcoef(found[:, 4:].ravel(), expected[:, 4:].ravel())[0, 1] > 0.95


def test_openvino_folder_is_the_same_file_and_the_host_reads_it(
    int8: Callable[..., tuple[Path, Quantized]], tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    from ultralytics import YOLO

    source, made = int8("yolov8n.yaml", "cpu")
    folder = tmp_path / "v8_openvino_model"
    again = quantize(source, image_blocks(1, 12), folder, target="openvino")
    assert again.int8 == made.int8
    assert sorted(p.name for p in folder.iterdir()) == ["metadata.yaml", "v8.bin", "v8.xml"]
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]
    images = network_input(image_blocks(2, 1), (SIZE, SIZE))
    found, _ = exported_runner(folder)(torch.from_numpy(images))
    assert np.corrcoef(found[:, 4:].ravel(), run(made.path, images)[:, 4:].ravel())[0, 1] > 0.99
    model = YOLO(folder, task="detect")
    (result,) = model.predict(image_blocks(2, 1)[0], imgsz=SIZE, verbose=False)
    assert result.names == read_onnx(source).metadata["names"]
    quantize(source, image_blocks(1, 12), folder, target="openvino")  # replaces its own kind only
    with pytest.raises(ConfigError, match=r"output: expected a new folder named \*_openvino_model in one that can"):
        save_openvino(source, tmp_path / "v8")
    (tmp_path / "mine_openvino_model").mkdir()
    with pytest.raises(ConfigError, match="output: expected a new folder"):
        quantize(source, image_blocks(1, 1), tmp_path / "mine_openvino_model", target="openvino")


def test_calibration_sees_the_gray_transform(exported: Export, tmp_path: Path) -> None:
    """It stays in FP32, and the first convolution's range is that of the darkened picture."""
    dark = [np.full((SIZE, SIZE, 3), 128, np.uint8)]
    largest = {}
    for gamma in (1.0, 2.0):
        source = exported("dsmoe-n.yaml", opset=17, simplify=True, dsmoe_gamma=gamma)
        made = onnx.load(quantize(source, dark, tmp_path / "q.onnx").path)
        scales = {i.name: numpy_helper.to_array(i) for i in made.graph.initializer}
        powers = [n.output[0] for n in made.graph.node if n.op_type == "Pow" and n.input[0] == "images"]
        assert len(powers) == (gamma != 1)
        pixels = powers[0] if powers else "images"
        first = next(n for n in made.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == pixels)
        largest[gamma] = float(scales[first.input[1]]) * 127
    assert largest[2.0] == pytest.approx((128 / 255) ** 2, rel=0.02)
    assert largest[1.0] == pytest.approx(128 / 255, rel=0.02)


# the command and bad input --------------------------------------------------------------------------------------------


def test_command(exported: Export, tiny_boards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = exported("yolov8n.yaml", opset=17)
    out = tmp_path / "out.onnx"
    assert commands.run(["edge", "quantize", str(source), f"data={tiny_boards}", "images=2", f"out={out}"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"calibrating {source} on 2 images"
    assert printed[-1] == f"{out}: 57 of 64 convolutions in INT8"
    assert read_onnx(out).quantized
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["images=2"], "model: expected one .onnx file as first argument, such as best.onnx, got none"),
        (["a.onnx", "b.onnx"], "b.onnx: expected a value, as in 'key=value', got none"),
        (["a.onnx"], "data: expected a data YAML with a 'val' split, for calibration, got none"),
        (
            ["a.onnx", "dato=x"],
            r"dato: expected one of model, data, dsmoe_reference, images, target, out \(did you mean 'data'\?\)",
        ),
        (["a.onnx", "data="], "data: expected a value, as in 'key=value', got none"),
        (["a.onnx", "data=x", "images=0"], "images: expected a positive integer, got 0"),
        (["a.onnx", "data=x", "images=all"], "images: expected a positive integer, got all"),
        (["a.onnx", "target=gpu", "data=x"], "target: expected one of tensorrt, cpu, openvino .*got gpu"),
        (["a.onnx", "data=gone.yaml"], "data: expected a data YAML with images in its 'val' split"),
    ],
)
def test_command_lines_that_are_wrong(words: list[str], message: str) -> None:
    with pytest.raises(DSMoEError, match=message):
        commands.run(["edge", "quantize", *words])


def test_files_that_do_not_suit(exported: Export, int8: Callable[..., tuple[Path, Quantized]], tmp_path: Path) -> None:
    source = exported("yolov8n.yaml", opset=17)
    some = image_blocks(1, 1)
    with pytest.raises(ConfigError, match="without Q/DQ nodes, got one that is quantized already"):
        quantize(int8("yolov8n.yaml")[1].path, some)
    with pytest.raises(DataError, match="images: expected at least one for calibration, got none"):
        quantize(source, [])
    with pytest.raises(DataError, match="images: expected at least one picture of 3 channels"):
        quantize(source, [tmp_path / "gone.jpg"], tmp_path / "a.onnx")
    with pytest.raises(ConfigError, match=r"model: expected an \.onnx file"):
        quantize(tmp_path / "best.pt", some)
    with pytest.raises(ConfigError, match=r"output: expected an \.onnx file in a folder that exists and can"):
        quantize(source, some, tmp_path / "gone" / "a.onnx")
    (tmp_path / "half.onnx").write_bytes(source.read_bytes()[:100000])
    with pytest.raises(WeightsError, match="expected a complete ONNX file"):
        quantize(tmp_path / "half.onnx", some)
    model = onnx.load(source)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(WeightsError, match="expected the metadata that `yolo export` writes"):
        quantize(tmp_path / "bare.onnx", some)
    bare = graph(A, ("Relu", ["a"], ["out"]), **W)
    helper.set_model_props(bare, {p.key: p.value for p in onnx.load(source).metadata_props})
    onnx.save(bare, tmp_path / "none.onnx")
    with pytest.raises(ConfigError, match="expected convolutions that may compute in INT8, got none"):
        quantize(tmp_path / "none.onnx", some)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bare.onnx", "half.onnx", "none.onnx"]
