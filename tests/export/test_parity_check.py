"""What the gate of one export looks at: images, precision, sizes, suppression; and what it refuses beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.export import parity_check, parity_verdict
from ultra_dsmoe.export.parity import Suppression
from ultra_dsmoe.export.parity_check import ParityCheck, suppression


class Model:
    def __init__(self, data: object = None) -> None:
        self.overrides = {"imgsz": 64, "data": data}


def test_images_come_from_the_data_set_or_are_drawn(toy: Any, tiny_boards: Path, tmp_path: Path) -> None:
    net = toy[0]
    named = ParityCheck(Model(), net, True, {"data": str(tiny_boards)})
    trained_on = ParityCheck(Model(str(tiny_boards)), net, True, {})
    assert len(named.files) == len(trained_on.files) == 4
    assert ParityCheck(Model(str(tmp_path / "gone.yaml")), net, True, {}).files == []
    assert ParityCheck(Model(), net, True, {})._images((64, 96)).shape == (parity_check.IMAGES, 3, 64, 96)
    assert named._images((64, 96)).shape == (4, 3, 64, 96)


def test_errors_come_before_the_export(toy: Any, tiny_boards: Path, tmp_path: Path) -> None:
    net = toy[0]
    with pytest.raises(DataError, match="data: expected a data YAML"):
        ParityCheck(Model(), net, True, {"data": str(tmp_path / "gone.yaml")})
    with pytest.raises(ConfigError, match=r"data: expected a data YAML for the mAP of dsmoe_parity=val, got none"):
        ParityCheck(Model(), net, "val", {})
    with pytest.raises(ConfigError, match=r"imgsz: expected a square .*, got \(64, 96\)"):
        ParityCheck(Model(str(tiny_boards)), net, "val", {"imgsz": [64, 96]})
    with pytest.raises(DataError, match="'test' split"):
        ParityCheck(Model(str(tiny_boards)), net, "test", {})
    ParityCheck(Model(), net, False, {"data": str(tmp_path / "gone.yaml")})


def test_what_the_gate_is_told(toy: Any, monkeypatch: pytest.MonkeyPatch, tiny_boards: Path) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(parity_verdict, "check_export", lambda *args: seen.append(args))
    call = {"batch": 2, "dynamic": True, "quantize": 16, "nms": True, "iou": 0.5}
    ParityCheck(Model(str(tiny_boards)), toy[0], "val", call).run("toy.onnx")
    ((export, images, split),) = seen
    assert (export.file, export.batch, export.bits) == ("toy.onnx", 2, 16), "suppression is traced for two images"
    assert export.nms == Suppression(iou=0.5)
    assert [tuple(i.shape[2:]) for i in images] == [(64, 64), (96, 64)], "dynamic: also another size and batch"
    assert split == {"data": str(tiny_boards), "split": "val", "imgsz": 64, "device": "cpu"}
    ParityCheck(Model(), toy[0], False, call).run("toy.onnx")
    assert len(seen) == 1, "switched off"
    ParityCheck(Model(), toy[0], True, {"dynamic": True}).run("toy.onnx")
    assert seen[1][0].batch == 2, "a batch that the file was not traced with"


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_images_have_the_nets_channels(toy: Any, channels: int) -> None:
    net = toy[0]
    net.yaml = {"channels": channels}
    assert ParityCheck(Model(), net, True, {}).images[0].shape == (parity_check.IMAGES, channels, 64, 64)


def test_an_unreadable_set_gives_way_to_drawn_images_unless_it_was_named(toy: Any, tmp_path: Path) -> None:
    data = tmp_path / "data.yaml"
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "empty.png").touch()
    data.write_text(f"path: {tmp_path}\ntrain: images\nval: images\nnames: [spur]\n")
    check = ParityCheck(Model(str(data)), toy[0], True, {})
    assert len(check.files) == 1
    assert check.images[0].shape == (parity_check.IMAGES, 3, 64, 64)
    with pytest.raises(DataError, match="images: expected at least one picture"):
        ParityCheck(Model(), toy[0], True, {"data": str(data)})


def test_one_size_and_batch_unless_they_are_dynamic(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(parity_verdict, "check_export", lambda *args: seen.append(args))
    for call in ({}, {"batch": 3}, {"batch": 3, "dynamic": True, "imgsz": [64, 96]}):
        ParityCheck(Model(), toy[0], True, call).run("toy.onnx")
    ParityCheck(Model(), toy[0], True, {}).run("")
    assert [export.batch for export, *_ in seen] == [1, 3, 4]
    assert [[tuple(i.shape[2:]) for i in images] for _, images, _ in seen] == [[(64, 64)]] * 2 + [[(64, 96), (96, 96)]]
    assert [split for *_, split in seen] == [None] * 3
    assert {export.nms for export, *_ in seen} == {None}


def test_suppression_has_the_exports_settings() -> None:
    assert suppression({}) is None
    assert suppression({"nms": False, "conf": 0.5}) is None
    assert suppression({"nms": True}) == Suppression(conf=0.25, iou=0.7, max_det=300, agnostic=False)
    call = {"nms": True, "conf": 0.0, "iou": 0.5, "max_det": 7, "agnostic_nms": True}
    assert suppression(call) == Suppression(conf=0.0, iou=0.5, max_det=7, agnostic=True)
    assert suppression({**call, "conf": None}) == Suppression(conf=0.25, iou=0.5, max_det=7, agnostic=True)
