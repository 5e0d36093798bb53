"""SparseMoE in the ONNX file: every mode, batches, routes that the image still chooses, no experts too many."""

import io
import math
import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from block_checks import LEGACY, assert_exports, export_onnx, run_onnx, shake
from moe_checks import C, D, K, N, Routed, inputs, moe_of, random_gate

from ultra_dsmoe.nn import SparseMoE


def convolutions_of_tensors(session_bytes: Any) -> Any:
    graph = onnx.load_from_string(session_bytes).graph
    constants = {i.name for i in graph.initializer} | {n.output[0] for n in graph.node if n.op_type == "Constant"}
    return [n.name for n in graph.node if n.op_type == "Conv" and n.input[1] not in constants]


def onnx_bytes(module: Any, inputs: Any, **kwargs: Any) -> Any:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, tuple(inputs), buffer, opset_version=17, **LEGACY, **kwargs)
    return buffer.getvalue()


def test_only_gather_with_dynamic_convolution_has_one_in_the_file() -> None:
    moe, x = shake(moe_of(dynamic_conv=True)).eval(), [inputs(random_gate(1, 3))]
    assert len(convolutions_of_tensors(onnx_bytes(moe, x))) == 1
    moe.dynamic_conv = False
    assert convolutions_of_tensors(onnx_bytes(moe, x)) == []
    moe.set_mode("static", [0, 3, 5])
    moe.dynamic_conv = True
    assert convolutions_of_tensors(onnx_bytes(moe, x)) == []


MODES = {"gather": None, "static": [0, 2, 4, 5], "dense": None}


@pytest.mark.parametrize("b", [1, 2, 4])
@pytest.mark.parametrize("mode", MODES)
def test_export_at_fixed_batches(b: int, mode: Any) -> None:
    moe = shake(moe_of())
    moe.set_mode(mode, MODES[mode])
    assert_exports(moe, *([inputs(random_gate(b, 3))] for _ in range(3)))
    if mode != "dense":
        alone = shake(SparseMoE(C, N, 3, own_gate=True))
        alone.set_mode(mode, MODES[mode])
        assert_exports(alone, *([torch.randn(b, C, 5, 6) + torch.randn(b, C, 1, 1)] for _ in range(3)))


@pytest.mark.parametrize("mode", MODES)
def test_export_with_a_dynamic_batch(mode: Any) -> None:
    alone = shake(SparseMoE(C, N, 3, own_gate=True, dynamic_conv=False)).eval()
    alone.set_mode(mode, MODES[mode])
    axes = {name: {0: "b", 2: "h", 3: "w"} for name in ("x", "y")}
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
    session = onnxruntime.InferenceSession(onnx_bytes(alone, [torch.randn(2, C, 5, 6)], **names))
    for shape in ((1, 5, 6), (2, 5, 6), (3, 4, 7)):
        x = torch.randn(shape[0], C, *shape[1:]) + 3 * torch.randn(shape[0], C, 1, 1)
        with torch.no_grad():
            np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], alone(x).numpy(), atol=1e-4)


def test_a_static_file_holds_the_kept_experts_only() -> None:
    moe, x = shake(SparseMoE(C, 32, 2, text_width=D)).eval(), [inputs(random_gate(1, 2, 32))]
    moe.fold_text(x[0][1])
    sizes = {}
    for mode, kept in (("gather", None), ("static", [3, 8])):
        moe.set_mode(mode, kept)
        graph = onnx.load_from_string(onnx_bytes(moe, x)).graph
        sizes[mode] = sum(math.prod(i.dims) for i in graph.initializer)
    expert = C * C + 9 * C + 4 * C  # numbers of a cross-modal expert
    assert sizes["gather"] > 30 * expert
    assert 2 * expert <= sizes["static"] < 3 * expert


def different_routes(routed: Any, text: Any) -> Any:
    """Find two images whose chosen experts have nothing in common."""
    found: dict[Any, Any] = {}
    for _ in range(200):
        x = torch.randn(1, C, 5, 6) + 3 * torch.randn(1, C, 1, 1)
        ids = frozenset(routed.gate([x, text]).nonzero()[:, 1].tolist())
        for other, image in found.items():
            if not ids & other:
                return image, x
        found[ids] = x
    pytest.fail("the gate sends everything to the same experts")


@pytest.mark.parametrize("mode", ["gather", "static"])
def test_routes_survive_in_the_onnx_file(mode: str) -> None:
    """Two images choose different experts inside the file, whatever the image was that it was traced with."""
    routed, text = Routed().eval(), torch.randn(K, D)
    if mode == "static":
        routed.moe.set_mode(mode, [0, 2, 3, 4, 6])
        routed.gate.keep([0, 2, 3, 4, 6])
    with torch.no_grad():
        first, second = different_routes(routed, text)
        session = export_onnx(routed, [first, text])
        seen = []
        for x in (first, second, first):
            mixture, g = run_onnx(session, [x, text])
            wanted_mixture, wanted_gate = routed(x, text)
            np.testing.assert_allclose(g, wanted_gate.numpy(), atol=1e-5)
            np.testing.assert_allclose(mixture, wanted_mixture.numpy(), atol=1e-4)
            seen.append(set(g[0].nonzero()[0].tolist()))
        assert seen[0] == seen[2]
        assert not seen[0] & seen[1]
        together = export_onnx(routed, [torch.cat([second, second]), text])  # traced on one route for both slots
        mixture, g = run_onnx(together, [torch.cat([first, second]), text])
        np.testing.assert_allclose(mixture, routed(torch.cat([first, second]), text)[0].numpy(), atol=1e-4)
        assert [set(row.nonzero()[0].tolist()) for row in g] == seen[:2]
