"""Small graphs for the tests of the linter, most of them sound or faulty by an argument."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

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
