"""Files that differ from their net by one planted fault are refused, at low scores as at high ones, in every format."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor
from ultralytics import YOLO

from ultra_dsmoe.export.images import drawn_images
from ultra_dsmoe.export.parity import Suppression, compare
from ultra_dsmoe.export.parity_verdict import Export, ParityError, check_export
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate

SIZE = 64
NAMES = dict(enumerate("abcde"))
FORMATS = {"onnx": ".onnx", "torchscript": ".torchscript", "openvino": "_openvino_model"}
IMAGES = drawn_images(4, (SIZE, SIZE))


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory, firing: Callable[[Any], None]) -> dict[str, Path]:
    """Return checkpoints of a fresh net, which finds nothing, and of one whose scores go from 0 to 1."""
    folder, paths = tmp_path_factory.mktemp("planted"), {}
    for level in ("low", "high"):
        torch.manual_seed(0)
        net = DSMoEModel("dsmoe-n.yaml", nc=len(NAMES), verbose=False)
        net.names = NAMES
        if level == "high":
            firing(net)
        paths[level] = folder / f"{level}.pt"
        torch.save({"model": net.eval(), "train_args": {"task": "detect", "imgsz": SIZE}}, paths[level])
    return paths


@pytest.fixture(scope="module")
def files(nets: dict[str, Path]) -> Callable[..., tuple[Any, Path]]:
    """Return a function that gives a net and its file, exported once."""

    def export(level: str, fmt: str, nms: bool = False, half: bool = False) -> tuple[Any, Path]:
        more = {k: True for k, on in (("nms", nms), ("half", half)) if on}
        path = nets[level].with_name("-".join([level, *more]) + ".pt")
        path.write_bytes(nets[level].read_bytes())
        file = path.with_name(f"{path.stem}{FORMATS[fmt]}")
        if not file.exists():
            done = YOLO(path).export(format=fmt, imgsz=SIZE, **more)
            assert Path(done) == file
        return YOLO(path).model, file

    return export


def on_predictions(change: Callable[[Tensor], None]) -> Callable[[DSMoEModel], None]:
    """Return a fault of what the head gives."""

    def hook(_m: Any, _x: Any, out: Any) -> Any:
        first = (out[0] if isinstance(out, tuple) else out).clone()
        change(first)
        return (first, *out[1:]) if isinstance(out, tuple) else first

    return lambda net: net.model[-1].register_forward_hook(hook)


def swap(one: int, other: int) -> Callable[[Tensor], None]:
    def change(y: Tensor) -> None:
        y[:, [one, other]] = y[:, [other, one]]

    return change


def other_experts(net: DSMoEModel) -> None:
    net.blocks(ExpertGate)[0].register_forward_hook(lambda _m, _x, out: out.roll(1, -1))


FAULTS = {
    "classes": on_predictions(swap(4, 6)),
    "coordinates": on_predictions(swap(0, 1)),
    "anchors": on_predictions(lambda y: y[:, :4].copy_(y[:, :4].roll(1, 2))),
    "scores": on_predictions(lambda y: y[:, 4:].mul_(0.9)),
    "experts": other_experts,
}


CASES = [
    ("low", "onnx", False),
    ("high", "onnx", False),
    ("low", "onnx", True),
    ("high", "onnx", True),
    ("low", "torchscript", True),
    ("low", "openvino", True),
    pytest.param("high", "torchscript", False, marks=pytest.mark.slow),
    pytest.param("high", "openvino", False, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("level", "fmt", "nms"), CASES)
def test_every_fault_is_refused_and_none_is_invented(
    files: Callable[..., Any], level: str, fmt: str, nms: bool
) -> None:
    net, file = files(level, fmt, nms)
    settings = Suppression() if nms else None
    check_export(Export(net, str(file), nms=settings), [IMAGES])
    report = compare(net, file, IMAGES, nms=settings)
    assert report.share < 1e-3, "a tenth of the limit"
    assert report.experts_equal is True
    passed = []
    for name, plant in FAULTS.items():
        wrong = deepcopy(net)
        plant(wrong)
        try:
            check_export(Export(wrong, str(file), nms=settings), [IMAGES])
        except ParityError:
            continue
        passed.append(name)
    assert passed == []


@pytest.mark.parametrize("level", ["low", "high"])
def test_swapped_classes_are_named_at_any_precision(files: Callable[..., Any], level: str) -> None:
    """A net that finds nothing scores all classes nearly alike, and half precision has three digits to show it."""
    net, file = files(level, "onnx", half=level == "low")  # what fires without training is too rough for half's limits
    for bits in (16, 8):
        check_export(Export(net, str(file), bits=bits), [IMAGES])
    FAULTS["classes"](net)
    for bits in (16, 8):
        with pytest.raises(ParityError, match="class 0 of the file is the net's class 2; class 2 of the file is"):
            check_export(Export(net, str(file), bits=bits), [IMAGES])


def test_a_file_of_no_numbers_is_refused_at_any_precision(files: Callable[..., Any]) -> None:
    net, file = files("low", "onnx")
    graph = onnx.load(file)
    (output,) = [o.name for o in graph.graph.output]
    next(n for n in graph.graph.node if output in n.output).output[0] = "before"
    graph.graph.initializer.append(numpy_helper.from_array(np.float32(np.nan), "nan"))
    graph.graph.node.append(onnx.helper.make_node("Mul", ["before", "nan"], [output]))
    wrong = file.with_name("nan.onnx")
    onnx.save(graph, wrong)
    assert not compare(net, wrong, IMAGES[:1]).finite
    with pytest.raises(ParityError, match=r"^nan.onnx: expected what the net gives, got predictions that are no num"):
        check_export(Export(net, str(wrong), bits=8), [IMAGES])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("fmt", ["onnx", "openvino"])
def test_a_wrong_export_never_takes_the_place_of_a_good_one(nets: dict[str, Path], tmp_path: Path, fmt: str) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(nets["low"].read_bytes())
    YOLO(path).export(format=fmt, imgsz=SIZE)
    good = contents(tmp_path)
    assert len(good) > 1
    model = YOLO(path)
    model.add_callback("on_export_start", lambda exporter: FAULTS["classes"](exporter.model))
    with pytest.raises(ParityError, match=r"scores of class \d moved by .* of their highest .*; it is not written"):
        model.export(format=fmt, imgsz=SIZE)
    assert contents(tmp_path) == good
