"""Run an exported file and show which experts it chose: the gates' tensors become outputs beside the predictions.

The gates are the only blocks whose graph scatters, so a file has one scatter per gate, in the order of the rows. A file
whose count differs, such as one with fixed experts, shows none.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate

# Images (B, 3, H, W) to predictions and the gates' weights, one (B, N) per gate.
Runner = Callable[[Tensor], tuple[np.ndarray, list[np.ndarray]]]


def torch_runner(net: nn.Module) -> Runner:
    """Return a runner of a net that is in evaluation mode."""
    gates = [m for m in net.modules() if isinstance(m, ExpertGate)]

    @torch.no_grad()
    def run(images: Tensor) -> tuple[np.ndarray, list[np.ndarray]]:
        seen: list[np.ndarray] = []
        handles = [g.register_forward_hook(lambda _m, _x, y: seen.append(y.cpu().numpy())) for g in gates]
        try:
            out = net(images)
        finally:
            for handle in handles:
                handle.remove()
        return (out[0] if isinstance(out, (tuple, list)) else out).cpu().numpy(), seen

    return run


def exported_runner(path: str | Path, gates: int = 0, before_nms: bool = False) -> Runner:
    """Return a runner of an exported file.

    Args:
        path: An ``.onnx`` or ``.torchscript`` file, or OpenVINO's folder.
        gates: How many gates the net has.
        before_nms: Whether its predictions are those that its own suppression chooses from, boxes as corners.

    Raises:
        ConfigError: If the path is none of these, or there is no such suppression.
    """
    path = Path(path)
    if path.suffix == ".onnx" and path.is_file():
        return _onnx(path, gates, before_nms)
    if path.suffix == ".torchscript" and path.is_file():
        return _torchscript(path, gates, before_nms)
    if path.is_dir() and (files := sorted(path.glob("*.xml"))):
        return _openvino(files[0], gates, before_nms)
    raise ConfigError("exported file", "an existing .onnx or .torchscript file or OpenVINO folder", str(path))


def _source_of_nms(nodes: list[Any], kind: Callable[[Any], str], inputs: Callable[[Any], list[Any]], nms: str) -> Any:
    """Return the value that a graph's suppression gets its scores from: the input of the last transposition before it.

    Args:
        nodes: Of the graph.
        kind: Returns a node's operator.
        inputs: Returns a node's inputs as pairs of value and producing node, None for the graph's own.
        nms: The suppression's operator; its second input are the scores.

    Raises:
        ConfigError: If there is none.
    """
    node = next((n for n in nodes if kind(n) == nms), None)
    number = 1
    while node is not None and len(inputs(node)) > number:
        value, source = inputs(node)[number]
        if "transpose" in kind(node).lower():
            return value
        node, number = source, 0  # what is chosen from comes first, how it is chosen after that
    raise ConfigError("exported file", "one with suppression inside", "none")


def _onnx(path: Path, gates: int, before_nms: bool) -> Runner:
    import onnx
    import onnxruntime

    graph = onnx.load(path)
    nodes = list(graph.graph.node)
    found = [n.output[0] for n in nodes if n.op_type == "ScatterElements"]
    found = found if len(found) == gates else []
    first: list[str] = []
    if before_nms:
        producer = {name: n for n in nodes for name in n.output}
        value = _source_of_nms(
            nodes,
            lambda n: n.op_type,
            lambda n: [(name, producer.get(name)) for name in n.input],
            "NonMaxSuppression",
        )
        first = [value]
    graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in [*first, *found])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [*(first or [session.get_outputs()[0].name]), *found]
    image = session.get_inputs()[0].name

    def run(images: Tensor) -> tuple[np.ndarray, list[np.ndarray]]:
        prediction, *rest = session.run(names, {image: images.cpu().numpy()})
        return prediction, rest

    return run


def _torchscript(path: Path, gates: int, before_nms: bool) -> Runner:
    module = torch.jit.load(str(path), map_location="cpu").eval()
    graph = module.inlined_graph.copy()
    nodes = list(graph.nodes())
    found = [n.output() for n in nodes if n.kind() == "aten::scatter"]
    found = found if len(found) == gates else []
    if before_nms:
        value = _source_of_nms(
            nodes, lambda n: n.kind(), lambda n: [(v, v.node()) for v in n.inputs()], "torchvision::nms"
        )
        found = [value, *found]
    for value in found:
        graph.registerOutput(value)
    if found:
        graph.makeMultiOutputIntoTuple()
    function: Any = torch._C._create_function_from_graph("forward", graph)

    @torch.no_grad()
    def run(images: Tensor) -> tuple[np.ndarray, list[np.ndarray]]:
        out = function(module._c, images.cpu())
        outputs = list(out) if isinstance(out, tuple) else [out]
        first, *rest = outputs[1:] if before_nms else outputs
        return first.numpy(), [gate.numpy() for gate in rest]

    return run


def _openvino(path: Path, gates: int, before_nms: bool) -> Runner:
    import openvino

    model = openvino.Core().read_model(path)
    nodes = model.get_ordered_ops()
    found = [op.output(0) for op in nodes if op.get_type_name() == "ScatterElementsUpdate"]
    found = found if len(found) == gates else []
    if before_nms:
        value = _source_of_nms(
            nodes,
            lambda n: n.get_type_name(),
            lambda n: [(v, v.get_node()) for v in n.input_values()],
            "NonMaxSuppression",
        )
        found = [value, *found]
    if found:
        model.add_outputs(found)
    # Without it, recent processors compute in bfloat16. A number of threads beside it is not for us to set: with one of
    # each OpenVINO 2026.4 ends the process on some graphs.
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(model, "CPU", config)

    def run(images: Tensor) -> tuple[np.ndarray, list[np.ndarray]]:
        outputs = list(compiled([images.cpu().numpy()]).values())
        first, *rest = outputs[1:] if before_nms else outputs
        return first, rest

    return run
