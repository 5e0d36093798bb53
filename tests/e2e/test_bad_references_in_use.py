"""Wrong references of a prediction, validation or export: one line each, before anything is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from reference_fixtures import faulty_picture, golden_picture
from refusals import one_line
from ultralytics import YOLO

from ultra_dsmoe.errors import DSMoEError

PREDICT: dict[str, Any] = {"imgsz": 64, "conf": 1e-3, "device": "cpu", "verbose": False}
VAL: dict[str, Any] = {"imgsz": 64, "device": "cpu", "verbose": False, "workers": 0, "plots": False}
SaveNet = Callable[..., Path]
Pairs = Callable[..., Path]


def no_folder(make: Any) -> Any:
    return YOLO(make.net()).predict(make.images, dsmoe_reference="nowhere/golden", **make.call)


def no_reference(make: Any) -> Any:
    return YOLO(make.net()).predict(make.images, **make.call)


def missing_some(make: Any) -> Any:
    (make.root / "golden" / "val2.png").unlink()
    return YOLO(make.net()).predict(make.images, dsmoe_reference=make.root / "golden", **make.call)


def list_too_short(make: Any) -> Any:
    return YOLO(make.net()).predict(make.images, dsmoe_reference=[golden_picture()] * 3, **make.call)


def list_for_arrays(make: Any) -> Any:
    return YOLO(make.net()).predict([faulty_picture()] * 2, dsmoe_reference=[golden_picture()], **make.call)


def other_size(make: Any) -> Any:
    return YOLO(make.net()).predict(faulty_picture(), dsmoe_reference=golden_picture()[:20], **make.call)


def stock_model(make: Any) -> Any:
    return YOLO(make.stock).predict(faulty_picture(), dsmoe_reference=golden_picture(), **make.call)


def stock_model_val(make: Any) -> Any:
    return YOLO(make.stock).val(data=str(make.data), dsmoe_reference=str(make.root / "golden"), **make.val)


def tensor_of_three(make: Any) -> Any:
    return YOLO(make.net()).predict(torch.rand(1, 3, 64, 64), dsmoe_reference=golden_picture(), **make.call)


def array_by_folder(make: Any) -> Any:
    return YOLO(make.net()).predict(faulty_picture(), dsmoe_reference=make.root / "golden", **make.call)


def video_by_folder(make: Any) -> Any:
    clip = make.root / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 5, (80, 60))
    writer.write(faulty_picture())
    writer.release()
    return YOLO(make.net()).predict(clip, dsmoe_reference=make.root / "golden", **make.call)


def stream_by_folder(make: Any) -> Any:
    clip = make.root / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 5, (80, 60))
    for _ in range(2):
        writer.write(faulty_picture())
    writer.release()
    (make.root / "line.streams").write_text(f"{clip}\n")
    return YOLO(make.net()).predict(make.root / "line.streams", dsmoe_reference=make.root / "golden", **make.call)


def exported_without(make: Any) -> Any:
    return YOLO(make.exported("torchscript"), task="detect").predict(make.images, **make.call)


def exported_three_channels(make: Any) -> Any:
    return YOLO(make.exported("torchscript"), task="detect").predict(torch.rand(1, 3, 64, 64), **make.call)


def openvino_without(make: Any) -> Any:
    return YOLO(make.exported("openvino"), task="detect").val(data=str(make.bare), **make.val)


def val_without(make: Any) -> Any:
    return YOLO(make.net()).val(data=str(make.bare), **make.val)


def val_switched_off(make: Any) -> Any:
    return YOLO(make.net()).val(data=str(make.data), dsmoe_reference=False, **make.val)


def val_missing(make: Any) -> Any:
    (make.root / "golden" / "val0.png").unlink()
    return YOLO(make.net()).val(data=str(make.data), **make.val)


def pattern_without_group(make: Any) -> Any:
    return YOLO(make.net()).predict(make.images, dsmoe_reference="{pattern: 'val', file: 'x{1}.png'}", **make.call)


def not_a_picture(make: Any) -> Any:
    (make.root / "note.png").write_text("no picture")
    return YOLO(make.net()).predict(make.images, dsmoe_reference=make.root / "note.png", **make.call)


def parity_without(make: Any) -> Any:
    return YOLO(make.net()).export(format="onnx", imgsz=64, data=str(make.bare), dsmoe_parity="val", device="cpu")


def int8_without(make: Any) -> Any:
    return YOLO(make.net()).export(format="openvino", imgsz=64, data=str(make.bare), int8=True, device="cpu")


REFUSED = {
    "no such folder": (no_folder, "no such folder"),
    "no references at all": (no_reference, "dsmoe_reference: expected known-good pictures for"),
    "one reference missing": (missing_some, "1 of 4 missing (val2.png)"),
    "a list of another length": (list_too_short, "as many references as images, 4, got a list of 3"),
    "arrays and a list of another length": (list_for_arrays, "as many references as images, 2, got a list of 1"),
    "an array of another size": (other_size, "80x60"),
    "the key on a stock model": (stock_model, "a detector trained with references"),
    "the key on a stock model in val": (stock_model_val, "a detector trained with references"),
    "a tensor of three channels": (tensor_of_three, "a tensor (B, 6, H, W)"),
    "an array and a folder": (array_by_folder, "one reference for all of what is no picture file"),
    "a video and a folder": (video_by_folder, "one reference for all of what is no picture file"),
    "a stream and a folder": (stream_by_folder, "one reference for all of what is no picture file"),
    "an exported file without": (exported_without, "dsmoe_reference: expected known-good pictures for"),
    "an exported file fed three channels": (exported_three_channels, "a tensor (B, 6, H, W)"),
    "an OpenVINO folder without": (openvino_without, "dsmoe_reference: expected known-good pictures for"),
    "a validation without": (val_without, "dsmoe_reference: expected known-good pictures for"),
    "a validation switched off": (val_switched_off, "dsmoe_reference: expected known-good pictures for"),
    "a validation with one missing": (val_missing, "1 of 4 missing (val0.png)"),
    "a pattern without a group": (pattern_without_group, "at least one group"),
    "a file that is no picture": (not_a_picture, "a picture"),
    "a comparison of mAP without": (parity_without, "dsmoe_reference: expected known-good pictures for"),
    "calibration without": (int8_without, "dsmoe_reference: expected known-good pictures for"),
}


class Make:
    """What the refused calls are made of."""

    def __init__(self, save_net: SaveNet, stock: Path, data: Path, bare: Path, runs: Path) -> None:
        self.net, self.stock, self.data, self.bare = save_net, stock, data, bare
        self.root, self.images = data.parent, data.parent / "images" / "val"
        self.call = {**PREDICT, "project": str(runs), "save": True}
        self.val = {**VAL, "project": str(runs)}

    def exported(self, kind: str) -> str:
        return YOLO(self.net()).export(format=kind, imgsz=64, device="cpu", verbose=False)


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_with_nothing_left(
    case: str, save_reference_net: SaveNet, save_detector: SaveNet, pair_set: Pairs, tmp_path: Path
) -> None:
    call, part = REFUSED[case]
    stock = save_detector({0: "spur", 1: "short"})
    make = Make(save_reference_net, stock, pair_set(), pair_set("bare", reference=None), tmp_path / "runs")
    with pytest.raises(DSMoEError) as caught:
        call(make)
    one_line(caught.value, part)
    assert not (tmp_path / "runs").exists()
    assert not list(tmp_path.glob("*.onnx")), "nothing half-written"
