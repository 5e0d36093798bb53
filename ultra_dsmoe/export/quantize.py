"""Put Q/DQ nodes in front of the convolutions that may compute in INT8, calibrated on a data set's validation half.

The file is explicit: a runtime computes in INT8 exactly where it says so. Which convolutions those are is a rule on the
graph, not a list of names (`int8_convolutions`); router, norms, hyperbolic distances, deformed sampling and the outputs
of the head stay in FP32. So do the biases, and the weights keep a Q/DQ pair of their own with one scale per output
channel: TensorRT 8.6 takes neither biases nor initializers in INT8. Ranges are minimum and maximum, which are reported
to suit detectors better than entropy.

The target decides on the activations. ``tensorrt`` takes no zero points: signed, symmetric. ``cpu`` is unsigned with
zero points: closer to FP32, since little of an activation's range is negative, and the only form that OpenVINO
2026.4 computes rightly behind a concatenation (with the signed one its scores had nothing to do with ONNX Runtime's).
``openvino`` writes the same as ``cpu``, as the folder that ``yolo val`` and ``yolo predict`` take for one of OpenVINO.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from ultra_dsmoe import checks
from ultra_dsmoe.data.reference.in_force import current
from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.evaluate.reference_choice import missing
from ultra_dsmoe.export.images import pictures
from ultra_dsmoe.export.openvino_folder import SUFFIX, checked_folder, save_openvino
from ultra_dsmoe.files import can_write, whole_file
from ultra_dsmoe.runtime.detections import network_input
from ultra_dsmoe.runtime.model_file import ModelInfo, model_info, read_onnx

IMAGES = 128  # for calibration (our choice: ranges of minimum and maximum settle early)
OLDEST_OPSET = 13  # the first with scales per channel
# Target to the activations' type, whether zero points are 0, and how the name of the result ends.
TARGETS = {
    "tensorrt": (QuantType.QInt8, True, "-int8.onnx"),
    "cpu": (QuantType.QUInt8, False, "-int8-cpu.onnx"),
    "openvino": (QuantType.QUInt8, False, f"-int8{SUFFIX}"),
}
# What needs more than eight bits: where to sample, which experts or detections to choose, weights of attention and, by
# their exponentials, of the box distribution, norms, and the logarithm that hyperbolic distances end in.
FLOAT_OPERATORS = {"GridSample", "TopK", "Softmax", "Exp", "LayerNormalization", "InstanceNormalization", "ReduceL2",
                   "Log"}  # fmt: skip
# Sums of products: what they compute from a tensor is another tensor's precision.
PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


@dataclass(frozen=True)
class Quantized:
    """What became of a file.

    Attributes:
        path: The new file.
        int8: Convolutions that compute in INT8.
        floating: Convolutions that stay in FP32.
    """

    path: Path
    int8: tuple[str, ...]
    floating: tuple[str, ...]

    def __str__(self) -> str:
        """Return one line for logs."""
        return f"{self.path}: {len(self.int8)} of {len(self.int8) + len(self.floating)} convolutions in INT8"


def int8_convolutions(model: onnx.ModelProto) -> list[str]:
    """Return the names of the convolutions that may compute in INT8.

    These have constant weights, compute a map rather than a vector (a gate on pooled channels costs nothing), and their
    output reaches no output of the graph and no operator of `FLOAT_OPERATORS` but through another product.
    """
    graph = model.graph
    constants = {i.name for i in graph.initializer}
    vectors = _vectors(model)
    consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            consumers[name].append(node)
    outputs = {o.name for o in graph.output}

    def precise(tensor: str) -> bool:
        seen, waiting = set(), [tensor]
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in outputs:
                return True
            for node in consumers[name]:
                if node.op_type in FLOAT_OPERATORS:
                    return True
                if node.op_type not in PRODUCTS:
                    waiting.extend(node.output)
        return False

    return [
        node.name
        for node in graph.node
        if node.op_type == "Conv"
        and node.input[1] in constants
        and node.input[0] not in constants
        and node.output[0] not in vectors
        and not precise(node.output[0])
    ]


def _vectors(model: onnx.ModelProto) -> set[str]:
    """Return the tensors (B, C, 1, 1)."""
    inferred = onnx.shape_inference.infer_shapes(model)
    found = set()
    for value in inferred.graph.value_info:
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4 and all(d.dim_value == 1 for d in dims[2:]):
            found.add(value.name)
    return found


def quantize(
    source: str | Path,
    images: Sequence[str | Path | np.ndarray],
    output: str | Path | None = None,
    *,
    target: str = "tensorrt",
) -> Quantized:
    """Write a file that computes its ordinary convolutions in INT8; it appears only once it is complete.

    Args:
        source: An ONNX file of a detector in FP32, written by ``yolo export``.
        images: For calibration, as `Runtime.predict` takes them; of a file that compares, files whose references are in
            force, or pairs (H, W, 2C).
        output: The new file or folder; by default beside the source, its name with ``-int8.onnx``, ``-int8-cpu.onnx``
            or ``-int8_openvino_model``.
        target: ``tensorrt``; ``cpu``, an ONNX file for ONNX Runtime and OpenVINO; ``openvino``, the same as its folder.

    Returns:
        The new file and what it computes in INT8.

    Raises:
        WeightsError: If the file is damaged or without metadata.
        ConfigError: If it holds Q/DQ nodes already, is not in FP32, or has no convolution that may be quantized; if
            openvino is asked for and missing.
        DataError: If there is no image that can be read; others are skipped with a warning.
        DSMoEError: If the file compares, and an image that is no pair has no reference in force.
    """
    source = Path(source)
    activations, symmetric, suffix = TARGETS[checks.one_of("target", target, TARGETS)]
    output = source.with_name(f"{source.stem}{suffix}") if output is None else Path(output)
    info = _checked(source, output, target)
    if not images:
        raise DataError("images", "at least one for calibration", "none")
    if info.reference is not None and current() is None and not isinstance(images[0], np.ndarray):
        raise missing(source.name)
    model = onnx.load(source)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    allowed = int8_convolutions(model)
    if not allowed:
        raise ConfigError(str(source), "convolutions that may compute in INT8", "none")
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.stem}.") as folder:
        named, part = Path(folder) / "named.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, named)
        quantize_static(
            named,
            part,
            _Calibration(model, info, images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=activations,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=allowed,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": symmetric,
                "WeightSymmetric": True,
                "AddQDQPairToWeight": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": ["Conv"],
            },
        )
        result = onnx.load(part)
        _give_back(result.graph, set(allowed))
        if target == "openvino":
            onnx.save(result, part)
            save_openvino(part, output)
        else:
            with whole_file(output) as final:
                onnx.save(result, final)
    others = [n.name for n in model.graph.node if n.op_type == "Conv" and n.name not in set(allowed)]
    return Quantized(output, tuple(allowed), tuple(others))


def _checked(source: Path, output: Path, target: str) -> ModelInfo:
    """Return what the file says about itself, once it and the place of the result are found to be in order."""
    if source.suffix != ".onnx":
        raise ConfigError("model", "an .onnx file", str(source))
    if target == "openvino":
        checked_folder(output)
    elif output.suffix != ".onnx" or not output.parent.is_dir() or output.is_dir() or not can_write(output.parent):
        raise ConfigError("output", "an .onnx file in a folder that exists and can be written", str(output))
    file = read_onnx(source)
    info = model_info(source, file.metadata)
    if file.quantized:
        raise ConfigError(str(source), "an ONNX file without Q/DQ nodes", "one that is quantized already")
    if file.opset < OLDEST_OPSET:
        raise ConfigError(str(source), f"opset {OLDEST_OPSET} or higher", file.opset)
    return info


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # the library is not typed
    """Hands images to onnxruntime, read one batch at a time."""

    def __init__(self, model: onnx.ModelProto, info: ModelInfo, images: Sequence[Any]) -> None:
        image = model.graph.input[0]
        if image.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise ConfigError(
                "model", "a network in FP32", onnx.TensorProto.DataType.Name(image.type.tensor_type.elem_type)
            )
        free = [d.dim_value or None for d in image.type.tensor_type.shape.dim]
        self._name, self._info, self._images = image.name, info, images
        self._batch = free[0] or 1
        self._size = (free[2] or info.imgsz[0], free[3] or info.imgsz[1])
        self._inputs = self._read()

    def _read(self) -> Iterator[dict[str, np.ndarray]]:
        inputs = pictures(self._images, self._info.channels)
        while some := list(islice(inputs, self._batch)):
            yield {self._name: network_input(some, self._size, batch=self._batch)}

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next input, None after the last."""
        return next(self._inputs, None)


def _give_back(graph: onnx.GraphProto, allowed: set[str]) -> None:
    """Let everything but the allowed convolutions read the tensors as they were.

    onnxruntime puts one Q/DQ pair behind a tensor, for all that read it: a router or a sum beside a convolution too.
    """
    quantized = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    original = {n.output[0]: quantized[n.input[0]] for n in graph.node if n.op_type == "DequantizeLinear"}
    for node in graph.node:
        if node.name not in allowed:
            for i, name in enumerate(node.input):
                node.input[i] = original.get(name, name)
