"""What TensorRT 8.6's ONNX parser reads, as one small rule per operator.

Source: what is documented of onnx-tensorrt 8.6-GA, and its operator table of 8.4, whose limits are kept: a graph
within them suits both. Rules on scatter reductions, BatchNormalization in training mode, functions and old opsets are
from experience with the parser. Nothing has been tried against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from onnx import NodeProto

from ultra_dsmoe.edge.lint_view import View, attributes

REFUSED = "refused"  # the parser or the builder stops
MISREAD = "misread"  # an engine comes out, with other results
SLOW = "slow"  # it runs, but the host waits for the GPU in the middle of the graph
UNTRIED = "untried"  # documented to work, and nobody has reported it on the oldest cards; no fault

MIN_OPSET, MAX_OPSET = 9, 17
MAX_RANK = 8  # Dims::MAX_DIMS
MAX_TOPK = 3840
INT32, FLOAT32 = np.iinfo(np.int32), np.finfo(np.float32)

_OPERATORS = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip Concat
Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu
Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool
GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization GRU HardSwish HardSigmoid Identity If ImageScaler
InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LRN LSTM
LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero
Not OneHot Or Pad ParametricSoftplus Pow PRelu QuantizeLinear RandomNormal RandomNormalLike RandomUniform
RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RNN RoiAlign Round ScaledTanh Scan Scatter
ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth
Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
OPERATORS = frozenset(_OPERATORS.split())
INSTEAD = {
    "DeformConv": "use ultra_dsmoe.ops.deform_sample, one GridSample and a stride-3 Conv",
    "DFT": "leave Fourier blocks out of deployed nets",
    "STFT": "leave Fourier blocks out of deployed nets",
    "DynamicQuantizeLinear": "quantise with constant scales, QuantizeLinear and DequantizeLinear",
    "QLinearConv": "quantise in QDQ format instead of QOperator",
    "QLinearMatMul": "quantise in QDQ format instead of QOperator",
    "ConvInteger": "quantise in QDQ format",
    "MatMulInteger": "quantise in QDQ format",
    "Hardmax": "use ArgMax and OneHot",
}
TYPES = frozenset({"FLOAT", "FLOAT16", "DOUBLE", "INT8", "INT32", "INT64", "BOOL", "UINT8"})
RESIZE_MODES = {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"}

# Operator -> inputs that must be constants, by position.
CONSTANT_INPUTS: dict[str, dict[int, str]] = {
    "CumSum": {1: "axis"},
    "InstanceNormalization": {1: "scale", 2: "B"},
    "NonMaxSuppression": {2: "max_output_boxes_per_class", 3: "iou_threshold", 4: "score_threshold"},
    "ReduceSum": {1: "axes"},
    "Slice": {3: "axes"},
    "Squeeze": {1: "axes"},
    "Unsqueeze": {1: "axes"},
}
# Operator -> smallest and largest rank of an input, by position.
RANKS: dict[str, dict[int, tuple[int, int]]] = {
    "AveragePool": {0: (3, 5)},
    "Conv": {0: (3, 5)},
    "ConvTranspose": {0: (3, 5)},
    "GridSample": {0: (4, 4), 1: (4, 4)},
    "InstanceNormalization": {0: (3, 5)},
    "MaxPool": {0: (3, 5)},
}
FOLD = "export with simplify=True, which folds constants"


class Problem(NamedTuple):
    """What a rule finds: one of the four kinds, what is wrong, and the way out."""

    kind: str
    what: str
    way_out: str


Rule = Callable[[NodeProto, View], Iterator[Problem]]
RULES: dict[str, list[Rule]] = {}  # rules of single operators; `every_node` runs for all


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Enrol a rule for some operators."""

    def enrol(function: Rule) -> Rule:
        for name in operators:
            RULES.setdefault(name, []).append(function)
        return function

    return enrol


def problems(node: NodeProto, view: View) -> Iterator[Problem]:
    """Yield everything that is wrong with one node."""
    if node.domain not in ("", "ai.onnx"):
        yield Problem(REFUSED, f"operator of the domain '{node.domain}'", "export without custom operators")
        return
    if node.op_type not in OPERATORS:
        way_out = INSTEAD.get(node.op_type, "write it with operators of the supported list")
        yield Problem(REFUSED, "not an operator of TensorRT 8.6", way_out)
        return
    for check in (*EVERY_NODE, *RULES.get(node.op_type, ())):
        yield from check(node, view)


# rules of every operator ----------------------------------------------------------------------------------------------


def _constant_inputs(node: NodeProto, view: View) -> Iterator[Problem]:
    for position, name in CONSTANT_INPUTS.get(node.op_type, {}).items():
        given = node.input[position] if position < len(node.input) else ""
        if given and not view.is_constant(given):
            yield Problem(REFUSED, f"{name} is computed, must be a constant", FOLD)


def _ranks(node: NodeProto, view: View) -> Iterator[Problem]:
    for position, (low, high) in RANKS.get(node.op_type, {}).items():
        shape = view.shape(node.input[position]) if position < len(node.input) else None
        if shape is not None and not low <= len(shape) <= high:
            expected = str(low) if low == high else f"{low} to {high}"
            way_out = "reshape around it, folding axes into the batch"
            yield Problem(REFUSED, f"input {position} of rank {len(shape)}, must be {expected}", way_out)
            break
    for name in node.output:
        if (shape := view.shape(name)) is not None and len(shape) > MAX_RANK:
            yield Problem(REFUSED, f"output of rank {len(shape)}, at most {MAX_RANK}", "merge axes that stay together")


def _types(node: NodeProto, view: View) -> Iterator[Problem]:
    for name in (*node.input, *node.output):
        kind = view.type(name) if name else None
        if kind is not None and kind not in TYPES:
            yield Problem(REFUSED, f"tensor '{name}' is {kind}", "cast to FLOAT or INT32 before the export")
            return


def _ranges(node: NodeProto, view: View) -> Iterator[Problem]:
    """Constants of 64 bits are clamped to 32."""
    for position, name in enumerate(node.input):
        if view.type(name) not in ("INT64", "DOUBLE") or (value := view.value(name)) is None or not value.size:
            continue
        low, high = value.min(), value.max()
        if value.dtype == np.float64:
            bad = bool(np.abs(value[np.isfinite(value)]).max(initial=0) > FLOAT32.max)
        else:
            to_the_end = node.op_type == "Slice" and position == 2  # a clamped end still lies behind the last element
            bad = bool(low < INT32.min or (high > INT32.max and not to_the_end))
        if bad:
            way_out = "avoid flip" if node.op_type == "Slice" else "keep constants within 32 bits"
            yield Problem(MISREAD, f"constant '{name}' from {low} to {high} is clamped to 32 bits", way_out)


EVERY_NODE: tuple[Rule, ...] = (_constant_inputs, _ranks, _types, _ranges)


# rules of single operators --------------------------------------------------------------------------------------------


@rule(*(op for op in OPERATORS if op.startswith("Reduce") and op != "ReduceSum"))
def _reduce(node: NodeProto, view: View) -> Iterator[Problem]:
    """Opset 18 made the axes an input, which 8.6 does not look at."""
    if len(node.input) > 1 and node.input[1]:
        yield Problem(MISREAD, "axes are an input, the parser reduces over all axes", f"export with opset={MAX_OPSET}")


@rule("Conv", "ConvTranspose")
def _dynamic_weights(node: NodeProto, view: View) -> Iterator[Problem]:
    if not view.is_constant(node.input[1]):
        group = attributes(node).get("group", 1)
        what = f"weights are computed in the graph ({group} groups)"
        yield Problem(UNTRIED, what, "if the builder refuses it, export with dsmoe_dynamic_conv=False")


@rule("MaxPool")
def _indices(node: NodeProto, view: View) -> Iterator[Problem]:
    if len(node.output) > 1 and node.output[1]:
        yield Problem(REFUSED, "gives the indices of the maxima", "pool without indices")


@rule("TopK")
def _topk(node: NodeProto, view: View) -> Iterator[Problem]:
    k = view.value(node.input[1]) if len(node.input) > 1 else None
    if k is not None and int(k.reshape(-1)[0]) > MAX_TOPK:
        yield Problem(
            REFUSED, f"K={int(k.reshape(-1)[0])}, at most {MAX_TOPK}", "lower max_det, or select in two steps"
        )


@rule("Einsum")
def _einsum(node: NodeProto, view: View) -> Iterator[Problem]:
    equation = str(attributes(node).get("equation", "")).replace(" ", "")
    terms = equation.split("->")[0].split(",")
    what = ""
    if "..." in equation:
        what = "has an ellipsis"
    elif equation != equation.lower():
        what = "has upper-case letters"
    elif any(len(set(term)) < len(term) for term in terms):
        what = "takes a diagonal"
    elif _broadcasts(terms, [view.shape(name) for name in node.input]):
        what = "broadcasts"
    if what:
        yield Problem(REFUSED, f"equation '{equation}' {what}", "write it with MatMul, Transpose and Reshape")


def _broadcasts(terms: list[str], shapes: Iterable[tuple[int | None, ...] | None]) -> bool:
    """Whether one letter stands for sizes that differ."""
    sizes: dict[str, set[int]] = {}
    for term, shape in zip(terms, shapes, strict=False):
        for letter, size in zip(term, shape or (), strict=False):
            if size is not None:
                sizes.setdefault(letter, set()).add(size)
    return any(len(s) > 1 for s in sizes.values())


@rule("Resize")
def _resize(node: NodeProto, view: View) -> Iterator[Problem]:
    given = attributes(node)
    mode = given.get("coordinate_transformation_mode", "half_pixel")
    if mode not in RESIZE_MODES:
        yield Problem(REFUSED, f"coordinates '{mode}'", f"use one of {', '.join(sorted(RESIZE_MODES))}")
    if given.get("antialias"):
        yield Problem(REFUSED, "antialias is set", "resize without antialias")


@rule("ScatterElements", "ScatterND")
def _scatter(node: NodeProto, view: View) -> Iterator[Problem]:
    reduction = attributes(node).get("reduction", "none")
    if reduction != "none":
        yield Problem(
            REFUSED, f"reduction '{reduction}'", "scatter without reduction, add in a MatMul with one-hot rows"
        )


@rule("QuantizeLinear", "DequantizeLinear")
def _zero_point(node: NodeProto, view: View) -> Iterator[Problem]:
    name = node.input[2] if len(node.input) > 2 else ""
    value = view.value(name) if name else None
    if value is None:
        without = not name and node.op_type == "DequantizeLinear"  # the type is then the input's, else UINT8
        if not (without and view.type(node.input[0]) == "INT8"):
            yield Problem(REFUSED, "no constant zero point of INT8", "quantise symmetrically to INT8")
    elif view.type(name) != "INT8" or bool(value.any()):
        low, high = value.min(), value.max()
        what = f"zero point {view.type(name)} from {low} to {high}, must be INT8 and 0"
        yield Problem(REFUSED, what, "quantise symmetrically to INT8")


@rule("Range")
def _range(node: NodeProto, view: View) -> Iterator[Problem]:
    if view.type(node.input[0]) in ("FLOAT", "FLOAT16", "DOUBLE") and not all(map(view.is_constant, node.input)):
        yield Problem(REFUSED, "floating-point range with a computed bound", FOLD)


@rule("BatchNormalization")
def _training_mode(node: NodeProto, view: View) -> Iterator[Problem]:
    if attributes(node).get("training_mode"):
        yield Problem(MISREAD, "normalises by the batch, as in training", "put the net in eval mode before the export")


@rule("If", "Loop", "Scan")
def _control_flow(node: NodeProto, view: View) -> Iterator[Problem]:
    way_out = "gather the weights of what was chosen, or leave branches out at export"
    yield Problem(SLOW, "the CPU decides at run time, once per image and node", way_out)


@rule("NonZero")
def _data_dependent(node: NodeProto, view: View) -> Iterator[Problem]:
    yield Problem(SLOW, "the size of the result depends on the data", "use TopK with a constant K, or a mask")


@rule("Constant")
def _sparse(node: NodeProto, view: View) -> Iterator[Problem]:
    if "sparse_value" in attributes(node):
        yield Problem(REFUSED, "sparse constant", "store it dense")
