"""Weights of other nets for T- and S-model: S from T, both from YOLOv5, by the maps in their YAMLs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import LOGGER

from ultra_dsmoe.errors import ConfigError, WeightsError
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.model.options import check_options
from ultra_dsmoe.nn import NeckBlock

Build = Callable[..., DSMoEModel]


def marked(net: nn.Module) -> nn.Module:
    """Give every tensor values of its own, statistics included: fresh norms look alike."""
    with torch.no_grad():
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5)
    return net


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the lines that the host's logger gets."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    monkeypatch.setattr(LOGGER, "handlers", [handler])
    return lines


def test_s_takes_all_its_tensors_from_t(build: Build, said: list[str]) -> None:
    teacher, student = marked(build("tmodel-n", nc=3)), build("smodel-n", nc=3)
    teacher.pt_path = "/runs/T.pt"
    student.load(teacher)
    total = sum(v.ndim > 0 for v in student.state_dict().values())
    assert [line for line in said if "tensors" in line or "items" in line] == [f"{total} of {total} tensors from T.pt"]

    def same(mine: nn.Module, theirs: nn.Module) -> bool:
        source = theirs.state_dict()
        return all(torch.equal(v, source[k]) for k, v in mine.state_dict().items())

    assert same(student.model[4], teacher.model[4]), "B3: the first repeats of more"
    assert same(student.model[8], teacher.model[8]), "S1"
    assert same(student.model[9], teacher.model[13]), "SPP"
    neck = [(m.direction, m.csp.cv3.conv.out_channels) for m in student.blocks(NeckBlock)]
    pairs = dict(zip(range(10, 20), [14, 15, 16, 17, 22, 23, 24, 25, 26, 27], strict=True))
    for mine, theirs in pairs.items():
        assert same(student.model[mine], teacher.model[theirs]), f"row {mine}"
    assert neck == [(m.direction, m.csp.cv3.conv.out_channels) for m in teacher.blocks(NeckBlock)[2:8]]
    for part in ("stems", "cv2", "cv3"):
        assert same(getattr(student.model[-1], part), getattr(teacher.model[-1], part)[:4])


def test_other_classes_leave_the_class_outputs_fresh(build: Build, said: list[str]) -> None:
    teacher, student = marked(build("tmodel-n", nc=3)), build("smodel-n", nc=5)
    before = student.model[-1].cv3[0][2].weight.clone()
    student.load(teacher)
    assert torch.equal(student.model[-1].cv3[0][2].weight, before)
    assert torch.equal(student.model[-1].cv3[0][1].conv.weight, teacher.model[-1].cv3[0][1].conv.weight)


@pytest.mark.parametrize(("name", "t4", "t3", "u4"), [("tmodel-n", 22, 23, 26), ("smodel-n", 14, 15, 18)])
def test_backbone_and_neck_from_yolov5(name: str, t4: int, t3: int, u4: int, build: Build, said: list[str]) -> None:
    stock, net = marked(DetectionModel("yolov5n.yaml", verbose=False)), build(name)
    before = {k: v.clone() for k, v in stock.state_dict().items()}
    net.load(stock)
    ours = net.state_dict()
    moved = {13: f"{t4}.csp", 14: f"{t3}.resize", 17: f"{t3}.csp", 18: f"{u4}.resize"}
    arrived = 0
    for row, place in {**{i: str(i) for i in range(1, 7)}, **moved}.items():
        for name_, value in stock.model[row].state_dict().items():
            if value.ndim:
                assert torch.equal(ours[f"model.{place}.{name_}"], value), f"{row}: {name_}"
                arrived += 1
    (line,) = [line for line in said if "tensors" in line]
    assert int(line.split()[0]) >= arrived > 150
    assert line.endswith("tensors from yolov5n.yaml")
    assert all(torch.equal(v, before[k]) for k, v in stock.state_dict().items()), "the source is left alone"


@pytest.mark.parametrize("name", ["tmodel-n", "smodel-n"])
def test_its_own_checkpoint_is_not_moved(name: str, build: Build, said: list[str]) -> None:
    source, net = marked(build(name)), build(name)
    net.load(source)
    theirs = source.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in net.state_dict().items() if v.ndim)
    assert any(line.startswith("Transferred") for line in said), "the host's own line"


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("smodel-n", "yolov8n"),
        ("tmodel-n", "yolov8n"),
        ("smodel-n", "yolov5s"),
        ("smodel-n", "dsmoe-n"),
        ("smodel-n", "tmodel-s"),
        ("tmodel-n", "smodel-n"),
    ],
)
def test_another_architecture_is_refused_in_one_line(name: str, other: str, build: Build) -> None:
    source = DetectionModel(f"{other}.yaml", verbose=False) if other.startswith("yolo") else build(other)
    with pytest.raises(WeightsError) as e:
        build(name).load(source)
    hint = f" (these weights go into {other}-dsmoe.yaml)" if other == "yolov8n" else ""
    said = f"pretrained weights: expected a checkpoint of {name}.yaml{hint}, got {other}.yaml, of which"
    assert str(e.value).startswith(said)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "moves",
    [{1: "22"}, {1: "csp"}, {1: "22.csp.m"}, {"a": 1}, {"yolov5": {1: -1}}, {"yolov5": [1]}, {"yolov5": {1: 2}, 3: 4}],
)
def test_wrong_maps(moves: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"dsmoe\.transfer: expected a mapping of row numbers"):
        check_options({"transfer": moves})
    for good in ({1: 2}, {1: "2.csp"}, {"yolov5": {1: "2.csp"}, "tmodel": {}}, {}):
        check_options({"transfer": good})
