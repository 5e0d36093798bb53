"""Linter of an ONNX file for TensorRT 8.6, the last release for a GTX 1080: needs neither TensorRT nor a GPU.

TensorRT's parser takes some graphs and computes something else (reductions of opset 18), so a clean build proves less
than a clean lint. The rules are in `lint_rules`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, shape_inference

from ultra_dsmoe.edge import lint_rules
from ultra_dsmoe.edge.lint_rules import MAX_OPSET, MIN_OPSET, MISREAD, REFUSED, TYPES, UNTRIED, Problem
from ultra_dsmoe.edge.lint_view import View
from ultra_dsmoe.errors import ConfigError


@dataclass(frozen=True)
class GraphFinding:
    """One thing that TensorRT 8.6 would stumble over.

    Attributes:
        kind: ``refused``, ``misread`` (other results), ``slow``, or ``untried``, which is no fault.
        node: Name of the node; its first output where it has none.
        operator: The node's operator; what kind of thing it is where the finding is not about a node.
        what: What is wrong.
        way_out: What to do.
    """

    kind: str
    node: str
    operator: str
    what: str
    way_out: str

    @property
    def is_fault(self) -> bool:
        """Whether the file needs a change."""
        return self.kind != UNTRIED

    def __str__(self) -> str:
        """Return one line."""
        return f"{self.kind}: {self.node} ({self.operator}): {self.what}; {self.way_out}"


def load(path: str | Path) -> ModelProto:
    """Read an ONNX file.

    Raises:
        ConfigError: If it is missing, incomplete or no ONNX graph.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError("ONNX file", "an existing file", str(path))
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (DecodeError, UnicodeDecodeError) as e:
        raise ConfigError(str(path), "a complete ONNX file", "something else, or half of one") from e
    except (onnx.checker.ValidationError, FileNotFoundError) as e:  # the latter: weights beside the file
        raise ConfigError(str(path), "a valid ONNX file", str(e).strip().splitlines()[0]) from e
    return model


def lint(model: ModelProto | str | Path, *, dynamic: bool = False) -> list[GraphFinding]:
    """Return what TensorRT 8.6 would refuse, misread or run slowly.

    Args:
        model: The model, or the path of its file.
        dynamic: Whether inputs may have axes of open size, for which the builder needs a profile.

    Returns:
        The findings, those of the whole graph first; check `GraphFinding.is_fault`.

    Raises:
        ConfigError: If the file cannot be read.
    """
    model = model if isinstance(model, ModelProto) else load(model)
    findings = list(_model_findings(model, dynamic))
    try:
        model = shape_inference.infer_shapes(model, data_prop=True)
    except shape_inference.InferenceError as e:
        what = f"shapes cannot be inferred: {str(e).strip().splitlines()[0]}"
        findings.append(GraphFinding(REFUSED, model.graph.name, "graph", what, "export the file anew"))
    return findings + list(_graph_findings(model.graph, None))


def opset(model: ModelProto) -> int:
    """Return the version of the standard operators, 0 where the file names none."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def _model_findings(model: ModelProto, dynamic: bool) -> Iterator[GraphFinding]:
    """Yield findings that belong to no node."""
    version = opset(model)
    if not MIN_OPSET <= version <= MAX_OPSET:
        what = f"opset {version}, must be {MIN_OPSET} to {MAX_OPSET}"
        kind = REFUSED if version < MIN_OPSET else MISREAD
        yield GraphFinding(kind, model.graph.name, "graph", what, f"export with opset={MAX_OPSET}")
    for function in model.functions:
        what = "function inside the file"
        yield GraphFinding(REFUSED, function.name, "function", what, "inline it: export with simplify=True")
    for sparse in model.graph.sparse_initializer:
        yield GraphFinding(REFUSED, sparse.values.name, "initializer", "sparse constant", "store it dense")
    view = View(model.graph)
    for name in (i.name for i in model.graph.input if view.tensor(i.name) is None):
        yield from (
            GraphFinding(p.kind, name, "input", p.what, p.way_out) for p in _input_problems(view, name, dynamic)
        )


def _input_problems(view: View, name: str, dynamic: bool) -> Iterator[Problem]:
    """Yield what is wrong with an input of the graph."""
    kind, shape = view.type(name), view.shape(name)
    if kind is not None and kind not in TYPES:
        yield Problem(REFUSED, f"type {kind}", "feed FLOAT")
    if shape is None:
        yield Problem(REFUSED, "rank unknown", "export with a fixed input")
    elif not dynamic and not all(shape):
        axes = ", ".join(str(i) for i, size in enumerate(shape) if not size)
        yield Problem(REFUSED, f"open size of axis {axes}", "export with dynamic=False, or build with a profile")


def _graph_findings(graph: GraphProto, outer: View | None) -> Iterator[GraphFinding]:
    """Yield findings of all nodes, those inside the bodies of If, Loop and Scan included."""
    view = View(graph, outer)
    for node in graph.node:
        name = node.name or (node.output[0] if node.output else "?")
        yield from (
            GraphFinding(p.kind, name, node.op_type, p.what, p.way_out) for p in lint_rules.problems(node, view)
        )
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _graph_findings(body, view)
