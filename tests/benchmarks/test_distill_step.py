"""The distillation benchmark: steps that train the student and leave the teacher, its ratio and arguments."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from ultralytics.utils import DEFAULT_CFG_DICT

if "distill_model" not in DEFAULT_CFG_DICT:
    pytest.skip("this host cannot distil", allow_module_level=True)


def test_steps_move_student_and_adapters_alone(distill_step: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[list[torch.Tensor]] = []
    stock = distill_step.torch.optim.SGD
    monkeypatch.setattr(distill_step.torch.optim, "SGD", lambda p, **k: built.append(list(p)) or stock(built[-1], **k))
    runs = distill_step.candidates("yolov8n", "yolov8n", 1, 64, torch.device("cpu"))
    assert list(runs) == ["student step", "teacher forward", "attention", "mimic", "self", "self-plain"]
    before = [[p.detach().clone() for p in parameters] for parameters in built]
    for run in runs.values():
        run()
    for old, new in zip(before, built, strict=True):
        assert sum(not torch.equal(a, b) for a, b in zip(old, new, strict=True)) > 0.5 * len(old)
    assert len(built[1]) == len(built[0]) + 6, "an adapter of weight and bias for each of three levels"
    assert len(built[3]) == len(built[0]), "outputs need none"


def test_a_teacher_of_other_strides_teaches_maps_alone(distill_step: ModuleType) -> None:
    runs = distill_step.candidates("yolov8n", "yolov8n-p2", 1, 64, torch.device("cpu"))
    assert list(runs) == ["student step", "teacher forward", "attention", "mimic"]


def test_ratio_by_hand(distill_step: ModuleType, interleaved: ModuleType) -> None:
    times = {name: interleaved.Timing(*values) for name, values in {
        "student step": (10, 20, 8), "teacher forward": (30, 40, 24), "attention": (44, 90, 24), "mimic": (40, 60, 32),
        "self": (60, 60, 32),
    }.items()}  # fmt: skip
    assert distill_step.ratio(times, "attention") == (1.1, 1.5, 0.75)
    found = [(bar.what.split()[0], bar.value, bar.aim, bar.holds) for bar in distill_step.bars(times)]
    assert found == [("attention", 1.1, 1.25, True), ("self", 1.5, 1.25, False)]
    assert distill_step.others(times) == ["mimic step over the same: minimum 1.000, median 1.000, processor 1.000"]


def test_it_prints_and_writes(
    distill_step: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "out.json"
    words = ["yolov8n", "yolov8n", "--batch", "1", "--imgsz", "64", "--repeats", "1", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["distill_step", *words])
    distill_step.main()
    printed = capsys.readouterr().out
    assert all(f"{name} step over student step + teacher forward:" in printed for name in ("attention", "self"))
    content = json.loads(file.read_text())
    assert set(content["ms"]) == {"student step", "teacher forward", "attention", "mimic", "self", "self-plain"}
    assert [bar["value"] > 0 for bar in content["bars"]] == [True, True]


def test_bad_arguments_are_one_line(distill_step: ModuleType, usage_error: Callable[..., str]) -> None:
    assert "expected a multiple of 32, got 100" in usage_error(distill_step, "--imgsz", "100")
    assert "expected an integer of at least 1, got 0" in usage_error(distill_step, "--batch", "0")
