"""What is known of a graph's tensors: constants by value, shapes and types, and what a body sees around it."""

from __future__ import annotations

import numpy as np
from lint_graphs import model, node
from onnx import TensorProto, helper, numpy_helper

from ultra_dsmoe.edge.lint_view import View, attributes

NUMBERS = np.array([[1, 2, 3]], np.int64)


def view() -> View:
    """A graph with an initializer, a Constant node, a computed tensor, a quantised constant and free sizes."""
    constant = node("Constant", outputs=["c"], value=numpy_helper.from_array(np.float32([7]), "v"))
    return View(
        model(
            constant,
            node("Relu", "x", outputs=["r"]),
            node("QuantizeLinear", "w", "scale", "", outputs=["q"]),
            node("DequantizeLinear", "q", "scale", outputs=["d"]),
            node("Identity", "d", outputs=["i"]),
            node("QuantizeLinear", "r", "scale", outputs=["rq"]),
            node("Add", "c", "c", outputs=["sum"]),
            shape=(1, "free", 8, 8),
            constants={"w": NUMBERS, "scale": np.float32([0.5])},
            known={"r": ((1, "free", 8, 8), TensorProto.FLOAT), "d": ((1, 3), TensorProto.FLOAT16)},
            out="i",
        ).graph
    )


def test_values_of_constants_and_of_nothing_else() -> None:
    seen = view()
    assert seen.value("w").tolist() == NUMBERS.tolist()
    assert seen.value("c").tolist() == [7]
    for name in ("x", "r", "q", "sum", "unknown", ""):
        assert seen.value(name) is None, name
        assert seen.tensor(name) is None, name


def test_what_is_known_before_the_graph_runs() -> None:
    seen = view()
    assert {name for name in ("w", "c", "q", "d", "i", "x", "r", "rq", "sum", "nowhere") if seen.is_constant(name)} == {
        "w", "c", "q", "d", "i"
    }  # fmt: skip  # a quantised constant is one, a quantised map is not, and sums are not computed


def test_shapes() -> None:
    seen = view()
    assert seen.shape("w") == (1, 3)
    assert seen.shape("c") == (1,)
    assert seen.shape("x") == seen.shape("r") == (1, None, 8, 8)
    assert seen.shape("i") is None  # an output of unknown rank
    assert seen.shape("sum") is None


def test_types() -> None:
    seen = view()
    assert [seen.type(name) for name in ("w", "c", "x", "d")] == ["INT64", "FLOAT", "FLOAT", "FLOAT16"]
    assert seen.type("sum") is None
    assert seen.type("i") is None


def test_a_body_sees_what_is_around_it_and_its_own_first() -> None:
    outer = view()
    own = helper.make_graph(
        [node("Relu", "r", outputs=["inner"])],
        "body",
        [],
        [helper.make_empty_tensor_value_info("inner")],
        [numpy_helper.from_array(np.float32([[1, 2]]), "w")],
    )
    body = View(own, outer)
    assert body.value("w").tolist() == [[1, 2]]
    assert body.value("scale").tolist() == [0.5]
    assert (body.shape("r"), body.type("r")) == ((1, None, 8, 8), "FLOAT")
    assert (body.shape("w"), body.type("w")) == ((1, 2), "FLOAT")
    assert body.is_constant("d")
    assert not body.is_constant("r")
    assert not body.is_constant("inner")
    assert not View(own).is_constant("d")
    assert View(own).shape("r") is None


def test_attributes_by_name() -> None:
    given = attributes(node("Resize", "x", mode="linear", axes=[2, 3], exclude_outside=1, extrapolation_value=0.5))
    assert given == {"mode": "linear", "axes": [2, 3], "exclude_outside": 1, "extrapolation_value": 0.5}
