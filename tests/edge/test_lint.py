"""The linter over whole files: what counts as a constant, bodies inside bodies, open axes, files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from lint_graphs import IMAGE, branches, floats, ints, model, node
from onnx import TensorProto, helper, numpy_helper

from ultra_dsmoe.edge.lint import lint
from ultra_dsmoe.edge.lint_rules import MISREAD, REFUSED, SLOW, UNTRIED
from ultra_dsmoe.errors import ConfigError


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
    wide = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(ints(2**40)))
    (finding,) = lint(model(wide, node("Add", "x", "k"), kind=TensorProto.INT64))
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
    valid.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, IMAGE))
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
