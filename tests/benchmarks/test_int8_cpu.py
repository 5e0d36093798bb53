"""What INT8 costs: the table, the verdicts, bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def found(int8_cpu: ModuleType) -> dict[str, Any]:
    files = (Path("fp32"), Path("int8"))
    return {
        "mine static": int8_cpu.Pair(True, files, ((0.5, 0.25), (0.5, 0.239))),
        "mine gather": int8_cpu.Pair(True, files, ((0.5, 0.25), (0.5, 0.241))),
        "other": int8_cpu.Pair(False, files, ((0.6, 0.3), (0.6, 0.1))),
    }


@pytest.fixture(scope="module")
def times(int8_cpu: ModuleType, found: dict[str, Any]) -> dict[str, Any]:
    ms = {f"{name} fp32": (10.0,) * 3 for name in found}
    ms |= {"mine static int8": (4.0,) * 3, "mine gather int8": (6.0,) * 3, "other int8": (5.0,) * 3}
    return {name: int8_cpu.Timing(*t) for name, t in ms.items()}


def test_bar_is_on_the_loss_of_our_nets(int8_cpu: ModuleType, found: dict[str, Any]) -> None:
    assert int8_cpu.verdicts(found) == [
        "mine static: INT8 costs +1.10 points of mAP50-95, aim <= 1: MISSED",
        "mine gather: INT8 costs +0.90 points of mAP50-95, aim <= 1: holds",
    ]


def test_table_and_ratios(int8_cpu: ModuleType, found: dict[str, Any], times: dict[str, Any]) -> None:
    head, *rows = int8_cpu.report(found, times)
    assert head.split()[-3:] == ["int8", "/", "fp32"]
    assert rows[1].split() == ["mine", "static", "int8", "0.500", "0.239", "+1.10", "4.00", "4.00", "4.00", "0.400"]
    assert rows[4].split() == ["other", "fp32", "0.600", "0.300", "10.00", "10.00", "10.00"]
    assert int8_cpu.beside(found, times) == [
        "mine static over other, INT8: 0.800",
        "mine gather over other, INT8: 1.200",
    ]


def test_run_names_the_net(int8_cpu: ModuleType) -> None:
    assert int8_cpu.name_of(Path("runs/spur/weights/best.pt")) == "spur"
    assert int8_cpu.name_of(Path("best.pt")) == "best"


def test_bad_input(int8_cpu: ModuleType, usage_error: Callable[..., str], tmp_path: Path) -> None:
    gone = tmp_path / "gone.pt"
    assert usage_error(int8_cpu, str(gone), "--data=x").endswith(f"expected an existing .pt file, got {gone}")
    gone.touch()
    assert usage_error(int8_cpu, str(gone)).endswith("required: --data")
    assert usage_error(int8_cpu, str(gone), "--data=x", "--imgsz=100").endswith("expected a multiple of 32, got 100")
