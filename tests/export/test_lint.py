"""The TensorRT 8.6 linter: every planted fault is found, alone and named; its sound twin passes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.export.lint import lint
from ultra_dsmoe.export.lint_rules import MISREAD, OPERATORS, REFUSED, SLOW, UNTRIED, problems
from ultra_dsmoe.export.lint_view import View

IMAGE = (1, 4, 8, 8)
Shape = Sequence[int | str]
Info = tuple[Shape, int]


def node(operator: str, *inputs: str, outputs: Sequence[str] = ("y",), domain: str = "", **given: object) -> NodeProto:
    return helper.make_node(operator, list(inputs), list(outputs), name=f"the {operator}", domain=domain, **given)


def model(
    *nodes: NodeProto,
    shape: Shape = IMAGE,
    kind: int = TensorProto.FLOAT,
    constants: dict[str, np.ndarray] | None = None,
    more: dict[str, Info] | None = None,
    known: dict[str, Info] | None = None,
    out: str = "y",
    opset: int = 17,
) -> ModelProto:
    """Return a graph from x to ``out``; ``more`` are inputs beside x, ``known`` is what shape inference cannot tell."""
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    inputs += [helper.make_tensor_value_info(name, t, s) for name, (s, t) in (more or {}).items()]
    graph = helper.make_graph(
        list(nodes),
        "test",
        inputs,
        [helper.make_empty_tensor_value_info(out)],
        [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()],
        value_info=[helper.make_tensor_value_info(name, t, s) for name, (s, t) in (known or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def ints(*values: int, dtype: type = np.int64) -> np.ndarray:
    return np.array(values, dtype)


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def axes_of(operator: str, axis: int, *, computed: bool) -> ModelProto:
    """Return a graph whose operator takes its axes as second input."""
    shape = (1, 4, 1) if operator == "Squeeze" else (1, 4, 8)
    if not computed:
        return model(node(operator, "x", "axes"), shape=shape, constants={"axes": ints(axis)})
    return model(node(operator, "x", "axes"), shape=shape, more={"axes": ([1], TensorProto.INT64)})


def slice_to(end: int, step: int = 1) -> ModelProto:
    constants = {"from": ints(-1 if step < 0 else 1), "to": ints(end), "axes": ints(2), "steps": ints(step)}
    return model(node("Slice", "x", "from", "to", "axes", "steps"), constants=constants)


def slice_axes(*, computed: bool) -> ModelProto:
    constants = {"from": ints(1), "to": ints(3)}
    if not computed:
        return model(node("Slice", "x", "from", "to", "axes"), constants={**constants, "axes": ints(2)})
    more = {"axes": ([1], TensorProto.INT64)}
    return model(node("Slice", "x", "from", "to", "axes"), constants=constants, more=more)


def branches(inner: str) -> ModelProto:
    """Return an If whose branches apply ``inner``."""
    given = {"equation": "bchw->bcwh"} if inner == "Einsum" else {}
    bodies = [
        helper.make_graph(
            [helper.make_node(inner, ["x"], [f"{name}_y"], name=f"in {name}", **given)],
            name,
            [],
            [helper.make_empty_tensor_value_info(f"{name}_y")],
        )
        for name in ("then", "else")
    ]
    choose = node("If", "c", then_branch=bodies[0], else_branch=bodies[1])
    return model(choose, more={"c": ([], TensorProto.BOOL)})


def loop() -> ModelProto:
    infos = [helper.make_tensor_value_info(n, t, []) for n, t in (("i", TensorProto.INT64), ("c", TensorProto.BOOL))]
    state = helper.make_tensor_value_info("s", TensorProto.FLOAT, IMAGE)
    body = helper.make_graph(
        [
            helper.make_node("Relu", ["s"], ["t"], name="inside"),
            helper.make_node("Identity", ["c"], ["d"], name="go on"),
        ],
        "body",
        [*infos, state],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, []), helper.make_empty_tensor_value_info("t")],
    )
    return model(node("Loop", "n", "", "x", body=body), constants={"n": np.array(3)})


def quantised(zero_point: np.ndarray | None) -> ModelProto:
    constants = {"scale": np.array(0.1, np.float32)}
    if zero_point is None:
        return model(node("QuantizeLinear", "x", "scale"), constants=constants)
    return model(node("QuantizeLinear", "x", "scale", "zero"), constants={**constants, "zero": zero_point})


def dequantised(zero_point: np.ndarray) -> ModelProto:
    constants = {"scale": np.array(0.1, np.float32), "zero": zero_point, "w": np.ones(4, zero_point.dtype)}
    return model(node("DequantizeLinear", "w", "scale", "zero"), constants=constants)


def resized(**given: object) -> ModelProto:
    constants = {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}
    return model(node("Resize", "x", "roi", "scales", mode="linear", **given), constants=constants)


def sampled(*space: int) -> ModelProto:
    """Return a GridSample of 2 or 3 dimensions."""
    grid = ((1, *space, len(space)), TensorProto.FLOAT)
    return model(node("GridSample", "x", "grid"), shape=(1, 4, *space), more={"grid": grid})


def scattered(**given: object) -> ModelProto:
    constants = {"i": ints(1, 2).reshape(1, 2), "v": floats(1, 2)}
    return model(node("ScatterElements", "x", "i", "v", axis=1, **given), shape=(1, 8), constants=constants)


def einsum(equation: str, *shapes: tuple[int, ...]) -> ModelProto:
    x, *rest = shapes
    more = {f"x{i}": (s, TensorProto.FLOAT) for i, s in enumerate(rest)}
    return model(node("Einsum", "x", *more, equation=equation), shape=x, more=more)


def with_function() -> ModelProto:
    inner = helper.make_node("Relu", ["a"], ["b"])
    function = helper.make_function("", "Twice", ["a"], ["b"], [inner], [helper.make_opsetid("", 17)])
    found = model(node("Relu", "x"))
    found.functions.append(function)
    return found


def foreign() -> ModelProto:
    found = model(node("Gelu", "x", domain="com.microsoft"))
    found.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return found


def with_sparse() -> ModelProto:
    found = model(node("Relu", "x"))
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
    found.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, helper.make_tensor("at", TensorProto.INT64, [1], [2]), [4])
    )
    return found


def of_rank(rank: int) -> ModelProto:
    shape = ints(1, 4, 8, 8, *[1] * (rank - 4))
    return model(node("Reshape", "x", "shape"), constants={"shape": shape})


def topk(k: int) -> ModelProto:
    shape = (1, 5000)
    return model(node("TopK", "x", "k", outputs=("y", "i")), shape=shape, constants={"k": ints(k)})


def reduced(operator: str, *, attribute: bool) -> ModelProto:
    """Return a reduction with its axes as an attribute or, as opset 18 writes it, as an input."""
    if attribute:
        return model(node(operator, "x", axes=[2, 3]))
    return model(node(operator, "x", "axes"), constants={"axes": ints(2, 3)})


def added(value: np.ndarray, kind: int) -> ModelProto:
    return model(node("Add", "x", "k"), kind=kind, constants={"k": value})


def ranged(*, computed: bool) -> ModelProto:
    start, delta = np.array(0, np.float32), np.array(1, np.float32)
    if computed:
        return model(node("Range", "a", "x", "d"), shape=(), constants={"a": start, "d": delta})
    constants = {"a": start, "b": np.array(4, np.float32), "d": delta}
    return model(node("Range", "a", "b", "d"), constants=constants)


def normalised(operator: str, **given: object) -> ModelProto:
    names = ("s", "b", "m", "v") if operator == "BatchNormalization" else ("s", "b")
    outputs = ("y", "rm", "rv") if given.get("training_mode") else ("y",)
    made = node(operator, "x", *names, outputs=outputs, **given)
    return model(made, constants={n: floats(4) for n in names})


def instance_norm(*, computed: bool) -> ModelProto:
    more = {"s": ([4], TensorProto.FLOAT)} if computed else None
    constants = {n: floats(4) for n in ("s", "b") if not (computed and n == "s")}
    return model(node("InstanceNormalization", "x", "s", "b"), constants=constants, more=more)


def pooled(*, indices: bool) -> ModelProto:
    outputs = ("y", "i") if indices else ("y",)
    return model(node("MaxPool", "x", outputs=outputs, kernel_shape=[2, 2]))


def convolved(rank: int) -> ModelProto:
    weights = floats(2, 4, *[1] * (rank - 2))
    shape = (1, 4, *[8] * (rank - 2))
    return model(node("Conv", "x", "w"), shape=shape, constants={"w": weights}, known={"y": (shape, TensorProto.FLOAT)})


Case = tuple[Callable[[], ModelProto], str, str, str, Callable[[], ModelProto]]
FLOAT, INT64, DOUBLE = TensorProto.FLOAT, TensorProto.INT64, TensorProto.DOUBLE
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
    "loop": (loop, SLOW, "Loop", "the host decides at run time", lambda: model(node("Relu", "x"))),
    "branch": (
        lambda: branches("Relu"),
        SLOW,
        "If",
        "the host decides at run time, once per image",
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


def test_weights_from_the_graph_are_named_but_no_fault() -> None:
    dynamic = model(node("Conv", "x", "w", group=2), more={"w": ([4, 2, 1, 1], TensorProto.FLOAT)})
    (finding,) = lint(dynamic)
    assert finding.kind == UNTRIED
    assert not finding.is_fault
    assert "weights are computed in the graph (2 groups)" in str(finding)


def test_quantised_weights_count_as_constants() -> None:
    scale, zero = np.array(0.1, np.float32), np.array(0, np.int8)
    constants = {"scale": scale, "zero": zero, "w": np.ones((2, 4, 1, 1), np.int8)}
    dequantise = helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["wf"], name="weights")
    assert lint(model(dequantise, node("Conv", "x", "wf"), constants=constants)) == []


def test_constant_nodes_count_as_constants() -> None:
    axes = helper.make_node("Constant", [], ["axes"], value=numpy_helper.from_array(ints(1)))
    assert lint(model(axes, node("Unsqueeze", "x", "axes"))) == []
    short = helper.make_node("Constant", [], ["axes"], value_ints=[1])
    assert lint(model(short, node("Unsqueeze", "x", "axes"))) == []
    wide = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(ints(BIG)))
    (finding,) = lint(model(wide, node("Add", "x", "k"), kind=INT64))
    assert (finding.kind, finding.node) == (MISREAD, "the Add")


def test_bodies_are_searched_and_see_outer_constants() -> None:
    first, *inside = lint(branches("Det"))
    assert (first.kind, first.node) == (SLOW, "the If")
    assert sorted((f.kind, f.node) for f in inside) == [(REFUSED, "in else"), (REFUSED, "in then")]
    inner = helper.make_node("Unsqueeze", ["x", "axes"], ["then_y"], name="in then")
    outer = branches("Relu")
    body = next(a.g for a in outer.graph.node[0].attribute if a.name == "then_branch")
    del body.node[:]
    body.node.append(inner)
    outer.graph.initializer.append(numpy_helper.from_array(ints(1), "axes"))
    assert [f.kind for f in lint(outer)] == [SLOW]


def test_faults_of_one_file_are_all_listed() -> None:
    both = model(node("Det", "x", outputs=("d",)), node("NonZero", "d"), shape=("batch", 4, 8, 8), opset=18)
    assert [f.operator for f in lint(both)] == ["graph", "input", "Det", "NonZero"]


def test_open_axes_may_be_meant() -> None:
    assert lint(model(node("Relu", "x"), shape=("batch", 3, 64, 64)), dynamic=True) == []


def test_shapes_that_cannot_be_inferred_are_a_fault() -> None:
    unknown = model(node("Gelu", "x", domain="no.such.domain"))  # which the file does not import
    assert [(f.kind, f.operator) for f in lint(unknown)] == [(REFUSED, "graph"), (REFUSED, "Gelu")]


def test_node_without_a_name_goes_by_its_output() -> None:
    unnamed = helper.make_node("Det", ["x"], ["y"])
    assert [f.node for f in lint(model(unnamed))] == ["y"]


def test_bad_files(tmp_path: Path) -> None:
    whole = tmp_path / "whole.onnx"
    valid = model(node("Add", "x", "k"), constants={"k": floats(8, 8)})
    valid.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, IMAGE))
    onnx.save(valid, whole)
    assert lint(whole) == []
    half = tmp_path / "half.onnx"
    half.write_bytes(whole.read_bytes()[:-40])
    text = tmp_path / "text.onnx"
    text.write_text("no ONNX at all")
    empty = tmp_path / "empty.onnx"
    empty.touch()
    loose = tmp_path / "loose.onnx"
    valid.graph.node[0].input[0] = "nowhere"
    loose.write_bytes(valid.SerializeToString())
    for path, expected in (
        (tmp_path / "none.onnx", r"ONNX file: expected an existing file, got .*none\.onnx"),
        (half, r"half\.onnx: expected a complete ONNX file, got something else, or half of one"),
        (text, r"text\.onnx: expected a complete ONNX file"),
        (empty, r"empty\.onnx: expected a valid ONNX file"),
        (loose, r"loose\.onnx: expected a valid ONNX file, got .*"),
    ):
        with pytest.raises(ConfigError, match=expected) as info:
            lint(path)
        assert "\n" not in str(info.value)
