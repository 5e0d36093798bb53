"""What is said before training of teachers that are truly better and truly worse than the student."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.data import build_yolo_dataset
from ultralytics.data.utils import check_det_dataset
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import DEFAULT_CFG_DICT

if "distill_model" not in DEFAULT_CFG_DICT:
    pytest.skip("this host cannot distil", allow_module_level=True)

SIZE = 96
STEPS = 50  # until the net has learnt the four boards that it is measured on by heart
SAID = re.compile(r"distill: (\w+)\.pt reaches mAP50-95 ([\d.]+) .*student,? (?:which )?starts at ([\d.]+)")


@pytest.fixture(scope="module")
def nets(
    tiny_boards: Path, save_net: Callable[..., Path], names: dict[int, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Return one net as checkpoints before (``bad``) and after (``good``) it learnt the validation boards."""
    torch.manual_seed(0)
    folder, args = tmp_path_factory.mktemp("nets"), get_cfg(overrides={"imgsz": SIZE})
    data: dict[str, Any] = check_det_dataset(str(tiny_boards))
    boards: Any = build_yolo_dataset(args, data["val"], 4, data, mode="val", rect=True)
    batch = boards.collate_fn([boards[i] for i in range(len(boards))])
    batch["img"] = batch["img"].float() / 255
    net: Any = DetectionModel("yolov8n.yaml", nc=len(names), verbose=False)
    net.args = args
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 0.5  # of always the same batch
    paths = {"bad": save_net(deepcopy(net), names, folder / "bad.pt")}
    optimizer = torch.optim.AdamW(net.train().parameters(), 2e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        net(batch)[0].sum().backward()
        optimizer.step()
    net.criterion = None
    return {**paths, "good": save_net(net.eval(), names, folder / "good.pt")}


@pytest.mark.parametrize(
    ("teacher", "student", "level"), [("good", "bad", "INFO"), ("bad", "good", "WARNING"), ("good", "good", "INFO")]
)
def test_the_nets_themselves_are_compared(
    teacher: str, student: str, level: str, nets: dict[str, Path], tiny_boards: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    call: dict[str, Any] = {
        "data": tiny_boards, "imgsz": SIZE, "batch": 4, "workers": 0, "plots": False, "device": "cpu",
        "verbose": False, "project": str(tmp_path),
    }  # fmt: skip
    true = {kind: YOLO(nets[kind]).val(**call).box.map for kind in {teacher, student}}

    def stop(_trainer: Any) -> None:
        raise KeyboardInterrupt

    yolo = YOLO(nets[student])
    yolo.add_callback("on_train_start", stop)
    with pytest.raises(KeyboardInterrupt):
        yolo.train(epochs=1, distill_model=str(nets[teacher]), dsmoe_kd="mimic", **call)
    (record,) = [r for r in caplog.records if "reaches mAP50-95" in r.getMessage()]
    assert record.levelname == level
    assert ("worse than the student" in record.getMessage()) == (level == "WARNING")
    said = SAID.search(record.getMessage())
    assert said
    assert said[1] == teacher
    for number, kind in ((said[2], teacher), (said[3], student)):
        assert float(number) == pytest.approx(true[kind], abs=5e-3)
        assert float(number) > 0.05 if kind == "good" else float(number) < 0.01
