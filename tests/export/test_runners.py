"""Files that are run with their gates' tensors shown, and with what their suppression chooses from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from block_checks import LEGACY
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.export.runners import _source_of_nms, exported_runner, torch_runner
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate

IMAGES = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class TwoGates(nn.Module):
    """A net whose prediction is neither of its gates."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.ModuleList([ExpertGate(3, 6, 2), ExpertGate(3, 4, 1)])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        first, second = (gate(x) for gate in self.gates)
        return torch.cat([first, second], 1) * 10, None


def test_a_nets_gates_come_in_their_order_and_the_hooks_go_away() -> None:
    net = TwoGates().eval()
    found, gates = torch_runner(net)(IMAGES)
    assert [g.shape for g in gates] == [(2, 6), (2, 4)]
    np.testing.assert_array_equal(found, np.concatenate(gates, 1) * 10)
    assert not any(gate._forward_hooks for gate in net.gates)


@pytest.mark.parametrize("suffix", [".onnx", ".torchscript"])
def test_a_files_gates_are_shown_where_their_number_is_right(tmp_path: Path, suffix: str) -> None:
    net, path = TwoGates().eval(), tmp_path / f"net{suffix}"
    if suffix == ".onnx":
        torch.onnx.export(TakeFirst(net).eval(), (IMAGES,), path, opset_version=17, **LEGACY)
    else:
        torch.jit.trace(TakeFirst(net).eval(), IMAGES, check_trace=False).save(str(path))
    expected, gates = torch_runner(net)(IMAGES)
    found, shown = exported_runner(path, 2)(IMAGES)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for ours, theirs in zip(gates, shown, strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-6)
    for wrong in (0, 1, 3):
        assert exported_runner(path, wrong)(IMAGES)[1] == []


class TakeFirst(nn.Module):
    """A net's predictions alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)[0]


def test_predictions_before_suppression_by_hand(tmp_path: Path) -> None:
    """Boxes and scores (1, 5, 2) are transposed and cut apart before the suppression, which keeps the first alone."""
    raw = np.float32([[[0, 1], [0, 1], [10, 11], [10, 11], [0.9, 0.8]]])
    constants = {"raw": raw, "four": np.int64([4]), "zero": np.int64([0]), "five": np.int64([5]), "two": np.int64([2]),
                 "one": np.int64([1]), "iou": np.float32([0.5])}  # fmt: skip
    nodes = [
        helper.make_node("Mul", ["x", "raw"], ["predictions"]),
        helper.make_node("Transpose", ["predictions"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("Slice", ["rows", "zero", "four", "two"], ["boxes"]),
        helper.make_node("Slice", ["rows", "four", "five", "two"], ["score"]),
        helper.make_node("Transpose", ["score"], ["scores"], perm=[0, 2, 1]),
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "one", "iou"], ["kept"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 1])],
        [helper.make_tensor_value_info("kept", TensorProto.INT64, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = tmp_path / "nms.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    kept, _ = exported_runner(path)(torch.ones(1, 1, 1))
    assert kept.tolist() == [[0, 0, 0]]
    found, rest = exported_runner(path, before_nms=True)(torch.ones(1, 1, 1))
    assert rest == []
    np.testing.assert_array_equal(found.reshape(-1), raw[0, 4], "the last transposition before it is the scores'")


def test_the_scores_are_followed_and_nothing_else() -> None:
    transpose = SimpleNamespace(kind="aten::transpose", inputs=[("wanted", None)])
    boxes = SimpleNamespace(kind="Transpose", inputs=[("boxes", None)])
    cut = SimpleNamespace(kind="Slice", inputs=[("t", transpose), ("b", boxes)])
    nms = SimpleNamespace(kind="NMS", inputs=[("b", boxes), ("s", cut)])
    nodes = [boxes, transpose, cut, nms]

    def source(nodes: list[Any]) -> object:
        return _source_of_nms(nodes, lambda n: n.kind, lambda n: n.inputs, "NMS")

    assert source(nodes) == "wanted"
    lone = SimpleNamespace(kind="NMS", inputs=[("b", boxes)])
    for without in ([boxes], [lone], [SimpleNamespace(kind="NMS", inputs=[("b", boxes), ("s", None)])]):
        with pytest.raises(ConfigError, match="exported file: expected one with suppression inside, got none"):
            source(without)


@pytest.mark.parametrize("name", ["gone.onnx", "gone.torchscript", "net.pb", "empty"])
def test_what_cannot_be_run_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "net.pb").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=rf"exported file: expected an existing .* got .*{name}"):
        exported_runner(tmp_path / name)
