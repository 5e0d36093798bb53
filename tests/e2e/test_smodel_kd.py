"""The paper's pair by the recipe: a T-model teaches an S-model that starts from its weights."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from ultralytics.utils import DEFAULT_CFG_DICT

from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.attention.dual_attention import DualAttention
from ultra_dsmoe.nn.neck.neck_block import NeckBlock

if "distill_model" not in DEFAULT_CFG_DICT:
    pytest.skip("this host cannot distil", allow_module_level=True)

SIZE = 128


def test_recipe(run_yolo: Callable[..., subprocess.CompletedProcess[str]], tiny_boards: Path, tmp_path: Path) -> None:
    names = dict(yaml.safe_load(tiny_boards.read_text())["names"])
    teacher = DSMoEModel("tmodel-n.yaml", nc=len(names), verbose=False)
    for attention in (m for m in teacher.modules() if isinstance(m, DualAttention)):
        torch.nn.init.normal_(attention.channel_out.bn.weight)  # a fresh attention is flat: nothing to learn from it
    teacher.names, teacher.task = names, "detect"
    torch.save({"model": teacher.half(), "train_args": {"task": "detect", "imgsz": SIZE}}, tmp_path / "T.pt")
    done = run_yolo(
        "train", "cfg=train/smodel-kd.yaml", "model=smodel-n.yaml", f"data={tiny_boards}", f"imgsz={SIZE}", "epochs=1",
        "batch=4", "workers=0", "device=cpu", "plots=False", f"project={tmp_path}", "name=run",
        f"pretrained={tmp_path / 'T.pt'}", f"distill_model={tmp_path / 'T.pt'}",
    )  # fmt: skip
    assert "685 of 685 tensors from T.pt" in done.stdout + done.stderr
    with open(tmp_path / "run" / "results.csv", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert all(float(row[f"train/{term}_loss"]) > 0 for term in ("fg", "att", "glob", "dis"))
    net = torch.load(tmp_path / "run" / "weights" / "best.pt", weights_only=False)["model"]
    assert type(net) is DSMoEModel
    assert sum(isinstance(m, NeckBlock) for m in net.modules()) == 6, "a student of four levels, nothing of the teacher"
