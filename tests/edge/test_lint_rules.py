"""The TensorRT 8.6 linter's rules: every planted fault is found, alone and named; its sound twin passes."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from lint_graphs import (
    added,
    axes_of,
    branches,
    convolved,
    dequantised,
    einsum,
    foreign,
    instance_norm,
    ints,
    loop,
    model,
    node,
    normalised,
    of_rank,
    pooled,
    quantised,
    ranged,
    reduced,
    resized,
    sampled,
    scattered,
    slice_axes,
    slice_to,
    topk,
    with_function,
    with_sparse,
)
from onnx import ModelProto, TensorProto

from ultra_dsmoe.edge.lint import lint
from ultra_dsmoe.edge.lint_rules import MISREAD, OPERATORS, REFUSED, SLOW, problems
from ultra_dsmoe.edge.lint_view import View

Case = tuple[Callable[[], ModelProto], str, str, str, Callable[[], ModelProto]]
INT64, DOUBLE = TensorProto.INT64, TensorProto.DOUBLE
BIG, LOWEST, HIGHEST = 2**40, -(2**63), 2**63 - 1

# name -> graph with one fault, kind, operator, what the line says; its sound twin
PLANTED: dict[str, Case] = {
    "opset 18": (
        lambda: model(node("Relu", "x"), opset=18),
        MISREAD,
        "graph",
        r"opset 18, must be 9 to 17; export with opset=17",
        lambda: model(node("Relu", "x"), opset=17),
    ),
    "opset 8": (
        lambda: model(node("Relu", "x"), opset=8),
        REFUSED,
        "graph",
        "opset 8, must be 9 to 17",
        lambda: model(node("Relu", "x"), opset=9),
    ),
    "unknown operator": (
        lambda: model(node("Det", "x")),
        REFUSED,
        "Det",
        "not an operator of TensorRT 8.6",
        lambda: model(node("Sinh", "x")),
    ),
    "way out of a known gap": (
        lambda: model(node("Hardmax", "x")),
        REFUSED,
        "Hardmax",
        "use ArgMax and OneHot",
        lambda: model(node("Softmax", "x")),
    ),
    "foreign domain": (
        foreign,
        REFUSED,
        "Gelu",
        "operator of the domain 'com.microsoft'",
        lambda: model(node("Erf", "x")),
    ),
    "mean over axes as an input": (
        lambda: reduced("ReduceMean", attribute=False),
        MISREAD,
        "ReduceMean",
        "reduces over all axes; export with opset=17",
        lambda: reduced("ReduceMean", attribute=True),
    ),
    "maximum over axes as an input": (
        lambda: reduced("ReduceMax", attribute=False),
        MISREAD,
        "ReduceMax",
        "axes are an input",
        lambda: reduced("ReduceSum", attribute=False),  # its axes have been an input since opset 13
    ),
    "computed axes of a sum": (
        lambda: axes_of("ReduceSum", 1, computed=True),
        REFUSED,
        "ReduceSum",
        "axes is computed, must be a constant",
        lambda: axes_of("ReduceSum", 1, computed=False),
    ),
    "computed axes of Unsqueeze": (
        lambda: axes_of("Unsqueeze", 1, computed=True),
        REFUSED,
        "Unsqueeze",
        "axes is computed, must be a constant",
        lambda: axes_of("Unsqueeze", 1, computed=False),
    ),
    "computed axes of Squeeze": (
        lambda: axes_of("Squeeze", 2, computed=True),
        REFUSED,
        "Squeeze",
        "axes is computed",
        lambda: axes_of("Squeeze", 2, computed=False),
    ),
    "computed axes of Slice": (
        lambda: slice_axes(computed=True),
        REFUSED,
        "Slice",
        "axes is computed",
        lambda: slice_axes(computed=False),
    ),
    "flip": (
        lambda: slice_to(LOWEST, step=-1),
        MISREAD,
        "Slice",
        "'to' from -9223372036854775808 .* clamped to 32 bits; avoid flip",
        lambda: slice_to(HIGHEST),  # how exporters write 'to the end': clamped, and still behind the end
    ),
    "wide integer": (
        lambda: added(ints(1, BIG), INT64),
        MISREAD,
        "Add",
        f"constant 'k' from 1 to {BIG} is clamped to 32 bits",
        lambda: added(ints(1, 2**31 - 1), INT64),
    ),
    "wide float": (
        lambda: added(np.array([1e300]), DOUBLE),
        MISREAD,
        "Add",
        r"1e\+300 is clamped",
        lambda: added(np.array([1e30]), DOUBLE),
    ),
    "open axis": (
        lambda: model(node("Relu", "x"), shape=("batch", 3, 64, 64)),
        REFUSED,
        "input",
        "open size of axis 0; export with dynamic=False",
        lambda: model(node("Relu", "x"), shape=(2, 3, 64, 64)),
    ),
    "volume GridSample": (
        lambda: sampled(4, 8, 8),
        REFUSED,
        "GridSample",
        "input 0 of rank 5, must be 4",
        lambda: sampled(8, 8),
    ),
    "four-dimensional convolution": (
        lambda: convolved(6),
        REFUSED,
        "Conv",
        "input 0 of rank 6, must be 3 to 5",
        lambda: convolved(5),
    ),
    "nine axes": (lambda: of_rank(9), REFUSED, "Reshape", "output of rank 9, at most 8", lambda: of_rank(8)),
    "large K": (lambda: topk(3841), REFUSED, "TopK", "K=3841, at most 3840", lambda: topk(3840)),
    "ellipsis": (
        lambda: einsum("...ij->...ji", (2, 3, 4)),
        REFUSED,
        "Einsum",
        "has an ellipsis; write it with MatMul",
        lambda: einsum("bij->bji", (2, 3, 4)),
    ),
    "upper case": (
        lambda: einsum("bI,bI->b", (2, 3), (2, 3)),
        REFUSED,
        "Einsum",
        "has upper-case letters",
        lambda: einsum("bi,bi->b", (2, 3), (2, 3)),
    ),
    "diagonal": (
        lambda: einsum("ii->i", (3, 3)),
        REFUSED,
        "Einsum",
        "takes a diagonal",
        lambda: einsum("ij->i", (3, 3)),
    ),
    "broadcasting equation": (
        lambda: einsum("bi,bi->b", (1, 3), (2, 3)),
        REFUSED,
        "Einsum",
        "broadcasts",
        lambda: einsum("bi,bj->b", (2, 3), (2, 4)),
    ),
    "crop and resize": (
        lambda: resized(coordinate_transformation_mode="tf_crop_and_resize"),
        REFUSED,
        "Resize",
        "coordinates 'tf_crop_and_resize'; use one of align_corners",
        lambda: resized(coordinate_transformation_mode="asymmetric"),
    ),
    "adding scatter": (
        lambda: scattered(reduction="add"),
        REFUSED,
        "ScatterElements",
        "reduction 'add'",
        scattered,
    ),
    "shifted zero point": (
        lambda: quantised(np.array(3, np.int8)),
        REFUSED,
        "QuantizeLinear",
        "zero point INT8 from 3 to 3, must be INT8 and 0; quantise symmetrically",
        lambda: quantised(np.array(0, np.int8)),
    ),
    "unsigned quantisation by default": (
        lambda: quantised(None),
        REFUSED,
        "QuantizeLinear",
        "no constant zero point of INT8",
        lambda: quantised(np.array(0, np.int8)),
    ),
    "quantised bias": (
        lambda: dequantised(np.array(0, np.int32)),
        REFUSED,
        "DequantizeLinear",
        "zero point INT32",
        lambda: dequantised(np.array(0, np.int8)),
    ),
    "indices of maxima": (
        lambda: pooled(indices=True),
        REFUSED,
        "MaxPool",
        "gives the indices",
        lambda: pooled(indices=False),
    ),
    "computed float range": (
        lambda: ranged(computed=True),
        REFUSED,
        "Range",
        "floating-point range with a computed bound",
        lambda: ranged(computed=False),
    ),
    "training": (
        lambda: normalised("BatchNormalization", training_mode=1),
        MISREAD,
        "BatchNormalization",
        "as in training; put the net in eval mode",
        lambda: normalised("BatchNormalization"),
    ),
    "computed scale": (
        lambda: instance_norm(computed=True),
        REFUSED,
        "InstanceNormalization",
        "scale is computed",
        lambda: instance_norm(computed=False),
    ),
    "loop": (loop, SLOW, "Loop", "the CPU decides at run time", lambda: model(node("Relu", "x"))),
    "branch": (
        lambda: branches("Relu"),
        SLOW,
        "If",
        "the CPU decides at run time, once per image",
        lambda: model(node("Where", "c", "x", "x"), more={"c": ([1], TensorProto.BOOL)}),
    ),
    "size by data": (
        lambda: model(node("NonZero", "x")),
        SLOW,
        "NonZero",
        "the size of the result depends on the data; use TopK",
        lambda: model(node("TopK", "x", "k", outputs=("v", "y")), constants={"k": ints(4)}),
    ),
    "type": (
        lambda: model(node("Cast", "x", to=TensorProto.UINT16)),
        REFUSED,
        "Cast",
        "tensor 'y' is UINT16; cast to FLOAT or INT32",
        lambda: model(node("Cast", "x", to=TensorProto.INT32)),
    ),
    "function": (with_function, REFUSED, "function", "function inside the file", lambda: model(node("Relu", "x"))),
    "sparse": (
        with_sparse,
        REFUSED,
        "initializer",
        "sparse constant; store it dense",
        lambda: model(node("Relu", "x")),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_fault_is_found_alone_and_its_sound_twin_passes(name: str) -> None:
    fault, kind, operator, says, sound = PLANTED[name]
    (finding,) = lint(fault())
    assert (finding.kind, finding.operator) == (kind, operator)
    assert finding.is_fault
    named = {"graph": "test", "input": "x", "function": "Twice", "initializer": "sparse"}
    assert str(finding).startswith(f"{kind}: {named.get(operator, f'the {operator}')} ({operator}): ")
    assert "\n" not in str(finding)
    assert re.search(says, str(finding)), f"{finding} does not say {says}"
    assert lint(sound()) == []


def test_every_operator_of_an_unsupported_list_is_refused() -> None:
    """A sample of the parser's own list of gaps, none of which may slip into ours."""
    gaps = ["BitShift", "Compress", "DFT", "DeformConv", "MaxUnpool", "Multinomial", "STFT", "SequenceAt", "Unique"]
    assert not OPERATORS & set(gaps)
    view = View(model(node("Relu", "x")).graph)
    assert all(next(problems(node(gap, "x"), view)).kind == REFUSED for gap in gaps)
