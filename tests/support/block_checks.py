"""Checks that every block's tests share: export with its parity and operators, gradients, copies."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from ultra_dsmoe.errors import ConfigError

# Operators of our graphs that the ONNX parser of TensorRT 8.6 takes (onnx-tensorrt 8.6-GA, docs/operators.md), less
# those that must not occur: Loop, Scan, If (host control) and NonZero (a shape that depends on data).
TRT86_NAMES = """
    Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv
    ConvTranspose Cos DepthToSpace DequantizeLinear Div Einsum Elu Equal Erf Exp Expand Flatten Floor Gather
    GatherElements GatherND Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample HardSigmoid Identity
    InstanceNormalization LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Mean Min Mod
    Mul Neg Not OneHot Or PRelu Pad Pow QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum Relu Reshape Resize Round ScatterElements ScatterND Shape Sigmoid Sign Sin Size
    Slice Softmax Softplus Split Sqrt Squeeze Sub Sum Tan Tanh Tile TopK Transpose Trilu Unsqueeze Where Xor
"""
TRT86_OPS = frozenset(TRT86_NAMES.split())
# The exporter that the host uses; torch before 2.5 has no other.
LEGACY = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
MOVED_AXES = 18  # from this opset on, reductions take their axes as an input, which TensorRT 8.6 ignores in silence


def assert_trt86_ops(model: onnx.ModelProto) -> None:
    """Fail on an operator, opset or form of reduction that TensorRT 8.6 cannot read or reads wrongly."""
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    assert opset < MOVED_AXES
    used = {node.op_type for node in model.graph.node}
    assert used <= TRT86_OPS, f"not for TensorRT 8.6: {sorted(used - TRT86_OPS)}"
    for node in model.graph.node:
        # ReduceSum and Squeeze have taken their axes as an input since opset 13; the parser knows that of them.
        if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum":
            assert len(node.input) == 1, f"{node.op_type} with axes as an input"
        if node.op_type == "GridSample":
            modes = {a.name: a.s.decode() for a in node.attribute if a.type == onnx.AttributeProto.STRING}
            assert modes.get("mode", "bilinear") == "bilinear"


def flat(inputs: Sequence[Tensor | Sequence[Tensor]]) -> list[Tensor]:
    return [t for x in inputs for t in (x if isinstance(x, (list, tuple)) else [x])]


def export_onnx(module: nn.Module, inputs: Sequence[Tensor | list[Tensor]]) -> onnxruntime.InferenceSession:
    """Export at opset 17 as the host does, check the operators, and return a session.

    Args:
        module: In evaluation mode.
        inputs: Positional inputs; a list of tensors is one input of the block.
    """
    buffer = io.BytesIO()
    names = [f"x{i}" for i in range(len(flat(inputs)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, tuple(inputs), buffer, opset_version=17, input_names=names, **LEGACY)
    assert_trt86_ops(onnx.load_from_string(buffer.getvalue()))
    return onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])


def run_onnx(session: onnxruntime.InferenceSession, inputs: Sequence[Tensor | list[Tensor]]) -> list[np.ndarray]:
    """Feed tensors by position; inputs that the graph does not read have no slot in the file."""
    slots = {i.name for i in session.get_inputs()}
    feed = {f"x{i}": t.numpy() for i, t in enumerate(flat(inputs)) if f"x{i}" in slots}
    return session.run(None, feed)


def assert_exports(module: nn.Module, *batches: Sequence[Tensor | list[Tensor]], atol: float = 1e-4) -> None:
    """Trace on the first batch; the ONNX file and the TorchScript module must agree with eager on all of them."""
    module.eval()
    session = export_onnx(module, batches[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, tuple(batches[0]), check_trace=False)
    for inputs in batches:
        with torch.no_grad():
            wanted = module(*inputs)
            got = traced(*inputs)
        torch.testing.assert_close(got, wanted, atol=atol, rtol=0)
        np.testing.assert_allclose(run_onnx(session, inputs)[0], wanted.numpy(), atol=atol, rtol=0)


def shake(module: nn.Module, scale: float = 0.1) -> nn.Module:
    """Move all parameters and running statistics away from their initial values; zeros would hide mistakes."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(scale * torch.randn_like(p))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, scale)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return module


def assert_gradients_reach_all(module: nn.Module, inputs: Sequence[Tensor | list[Tensor]]) -> None:
    """One training step's gradient must be finite everywhere and non-zero for each parameter and input."""
    module.train()
    leaves = [t.requires_grad_() for t in flat(inputs) if t.is_floating_point()]
    out = module(*inputs)
    target = torch.linspace(-1, 1, out.numel()).view(out.shape)
    ((out - target) ** 2).mean().backward()
    for name, p in [*module.named_parameters(), *((f"input {i}", t) for i, t in enumerate(leaves))]:
        if not p.numel():
            continue
        assert p.grad is not None, f"no gradient for {name}"
        assert torch.isfinite(p.grad).all(), f"gradient of {name} is not finite"
        assert p.grad.abs().max() > 0, f"zero gradient for {name}"


def assert_round_trips(
    module: nn.Module, fresh: nn.Module, inputs: Sequence[Tensor | list[Tensor]], aux: bool = False
) -> None:
    """Copies made after a training forward, and a fresh block with the same state, give the same output.

    Args:
        module: The block.
        fresh: A block built alike, other parameters.
        inputs: Of one forward.
        aux: Whether the block leaves auxiliary terms on itself.
    """
    # as in a net, what comes in carries a gradient
    inputs = [[t * 1 for t in x] if isinstance(x, (list, tuple)) else x * 1 for x in inputs]
    for t in flat(inputs):
        t.requires_grad_()
    module.train()
    module(*inputs)
    if aux:
        assert any(t.grad_fn is not None for t in module.aux.values())
    twins = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
    if aux:
        assert module.aux  # copying leaves the original alone
        assert all(t.aux is None for t in twins)
    fresh.load_state_dict(module.state_dict())
    wanted = module.eval()(*inputs)
    for twin in (*twins, fresh):
        assert torch.equal(twin.eval()(*inputs), wanted)


def assert_refuses_others(
    block: type[nn.Module], *switches: str, given: dict[str, Any] | None = None, **sizes: Any
) -> Any:
    """Each size must be a positive integer, of a list each entry, and each switch true or false; or the block says so.

    Args:
        block: Its class.
        switches: Names of its switches.
        given: Its other arguments.
        **sizes: Good sizes by name.
    """
    given = given or {}
    block(**given, **sizes)
    for name, good in sizes.items():
        for wrong in (0, -1, 1.5, True, "8"):
            value, entry = (wrong, "") if isinstance(good, int) else ([*good[:-1], wrong], rf"\[{len(good) - 1}\]")
            with pytest.raises(
                ConfigError, match=rf"^{block.__name__} {name}{entry}: expected a positive integer, got "
            ):
                block(**{**given, **sizes, name: value})
    for name in switches:
        for wrong in (0, 1, None, "false"):
            with pytest.raises(ConfigError, match=rf"^{block.__name__} {name}: expected true or false, got "):
                block(**{**given, **sizes, name: wrong})
