"""Every model YAML of the package exports to a graph that TensorRT 8.6 reads, in every mode of the mixture."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from ultralytics import YOLO
from ultralytics.nn.tasks import yaml_model_load
from ultralytics.utils import YAML

from ultra_dsmoe.edge.lint import lint
from ultra_dsmoe.edge.lint_rules import MISREAD, UNTRIED
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate
from ultra_dsmoe.nn.neck.sparse_moe import MODES

CFG = Path(__file__).resolve().parents[2] / "cfg" / "models"
# YAML -> its nets
NETS = {
    "dsmoe.yaml": ("dsmoe",),
    "dsmoe-conv.yaml": ("dsmoe-n", "dsmoe-s", "dsmoe-m"),
    "dsmoe-concat.yaml": ("dsmoe-concat",),
    "dsmoe-p2.yaml": ("dsmoe-p2",),
    "yolov8-dsmoe.yaml": ("yolov8n-dsmoe", "yolov8s-dsmoe"),
    "yolo26-dsmoe.yaml": ("yolo26n-dsmoe", "yolo26s-dsmoe"),
    "dsmoe-ref.yaml": ("dsmoe-n-ref", "dsmoe-s-ref", "dsmoe-m-ref"),
}
# no mixture, and sizes of 128: tests/e2e/test_tmodel.py, tests/configs/test_gasnet.py; tests/configs/test_reference.py
ELSEWHERE = ["smodel.yaml", "tmodel.yaml", "gasnet.yaml", "yolov8-gasnet.yaml", "yolo26-gasnet.yaml"]
ELSEWHERE += ["yolov8-ref.yaml", "yolo11-ref.yaml", "yolo26-ref.yaml"]
CLASSIFIERS = {
    "pfa-cls.yaml": "pfa-cls",
    "yolov8-pfa-cls.yaml": "yolov8n-pfa-cls",
    "yolo11-pfa-cls.yaml": "yolo11n-pfa-cls",
}
SIZE = 64
KEPT = range(8)  # any experts: a lint looks at operators
ALL_MODES = "dsmoe-n"  # the net that tries each mode in the quick run
QUICK = {(ALL_MODES, mode) for mode in MODES} | {(net, MODES[0]) for net in ("yolov8n-dsmoe", "yolo26n-dsmoe")}
CASES = [
    pytest.param(net, mode, marks=() if (net, mode) in QUICK else pytest.mark.slow)
    for nets in NETS.values()
    for net in nets
    for mode in MODES
]


def export(net: str, mode: str, **arguments: object) -> Path:
    """Export a fresh net into the working folder."""
    model = YOLO(f"{net}.yaml")
    kept = [[list(KEPT)] * len(model.model.blocks(ExpertGate))] if mode == "static" else []
    model.model.set_moe_mode(mode, *kept)
    return Path(model.export(format="onnx", imgsz=SIZE, **arguments))


def test_the_sweep_covers_every_yaml_of_the_package() -> None:
    assert sorted([*NETS, *ELSEWHERE, *CLASSIFIERS]) == sorted(str(p.relative_to(CFG)) for p in CFG.rglob("*.yaml"))


@pytest.mark.parametrize("text_mode", ["train", "always"])
@pytest.mark.parametrize("net", CLASSIFIERS.values())
def test_the_graph_of_a_classifier_is_sound(
    net: str, text_mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = yaml_model_load(f"{net}.yaml")
    cfg["dsmoe"]["text_mode"] = text_mode
    YAML.save(tmp_path / f"own-{net}.yaml", cfg)
    path = Path(YOLO(f"own-{net}.yaml").export(format="onnx", imgsz=SIZE))
    assert not lint(path)
    channels = onnx.load(path).graph.input[0].type.tensor_type.shape.dim[1].dim_value
    assert channels == {"train": 3, "always": 4}[text_mode]


@pytest.mark.parametrize(("net", "mode"), CASES)
def test_exported_graph_is_sound(net: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = export(net, mode)
    found = lint(path)
    assert not [str(f) for f in found if f.is_fault]
    assert len(onnx.load(path).graph.node) > 300, "not the whole net"
    if mode != "gather":
        assert not found, "only gathered weights are computed in the graph"
    else:
        assert [f.kind for f in found] == [UNTRIED]


def test_a_dynamic_export_is_sound_where_a_dynamic_graph_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = export(ALL_MODES, "static", dynamic=True)
    assert not lint(path, dynamic=True)
    assert lint(path), "a box that has fixed shapes must hear of the free axes"


def test_the_hosts_own_opset_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opset 18, which the host chooses for itself, reduces over the wrong axes in the gate and the norms."""
    monkeypatch.chdir(tmp_path)
    found = [f for f in lint(export(ALL_MODES, MODES[0], opset=18)) if f.is_fault]
    assert {f.kind for f in found} == {MISREAD}
    assert {f.operator for f in found} >= {"graph", "ReduceMean", "ReduceMax", "ReduceL2"}
