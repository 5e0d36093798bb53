"""What the linter knows about the tensors of a graph: constants, types, shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper


class View:
    """Tensors of one graph; the body of an If, Loop or Scan also sees the graph around it."""

    def __init__(self, graph: GraphProto, outer: View | None = None) -> None:
        """Collect constants and inferred types.

        Args:
            graph: A ``GraphProto`` after shape inference.
            outer: The view of the surrounding graph, for a body of If, Loop or Scan.
        """
        self.graph, self.outer = graph, outer
        self.producers = {name: node for node in graph.node for name in node.output}
        self.tensors = {t.name: t for t in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and (value := attributes(node).get("value")) is not None:
                self.tensors[node.output[0]] = value
        infos = (*graph.input, *graph.output, *graph.value_info)
        self.infos = {i.name: i.type.tensor_type for i in infos if i.type.HasField("tensor_type")}

    def tensor(self, name: str) -> TensorProto | None:
        """Return a constant tensor, None for one that is computed."""
        found = self.tensors.get(name)
        return found if found is not None or self.outer is None else self.outer.tensor(name)

    def value(self, name: str) -> np.ndarray | None:
        """Return the numbers of a constant tensor."""
        tensor = self.tensor(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is known before the graph runs; a quantised constant is."""
        if self.tensor(name) is not None:
            return True
        node = self.producers.get(name)
        if node is None:
            return self.outer is not None and self.outer.is_constant(name)
        return node.op_type in {"Constant", "Identity", "QuantizeLinear", "DequantizeLinear"} and all(
            self.is_constant(i) for i in node.input if i
        )

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Return a shape with None for unknown sizes; None where even the rank is unknown."""
        tensor = self.tensor(name)
        if tensor is not None:
            return tuple(tensor.dims)
        info = self.infos.get(name)
        if info is not None and info.HasField("shape"):
            return tuple(d.dim_value if d.HasField("dim_value") else None for d in info.shape.dim)
        return None if self.outer is None else self.outer.shape(name)

    def type(self, name: str) -> str | None:
        """Return the name of a tensor's element type, such as ``FLOAT``."""
        tensor, info = self.tensor(name), self.infos.get(name)
        number = tensor.data_type if tensor is not None else info.elem_type if info is not None else 0
        if not number:
            return None if self.outer is None else self.outer.type(name)
        return TensorProto.DataType.Name(number)


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return the attributes of a node; text as ``str``."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}
