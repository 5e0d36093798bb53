"""The benchmark of references: what it builds at a small size, its ratios, bars and arguments."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PIXELS = 64


@pytest.fixture(scope="module")
def measured(reference_latency: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return reference_latency.measure("yolov8n", PIXELS, 1, tmp_path_factory.mktemp("nets"))


def test_every_form_is_built_and_timed(reference_latency: ModuleType, measured: Any) -> None:
    nets, times = measured
    plain, *others = nets
    assert plain == "yolov8n"
    assert others == [f"yolov8n {f}" for f in ("pack", "local", "conv", "conv-local", "features")]
    assert list(times) == list(nets)
    assert [b.channels for b in nets.values()] == [3, 6, 6, 6, 6, 6]
    assert [nets[k].parameters - nets[plain].parameters for k in others] == [0, 0, 9, 9, 32 * 32 + 2 * 32]
    added = [nets[k].gflops - nets[plain].gflops for k in others]
    gray = 2 * 6 * 2 * PIXELS**2 / 1e9
    assert added[:2] == pytest.approx([gray, gray])
    assert added[2:4] == pytest.approx([gray + 2 * 9 * PIXELS**2 / 1e9] * 2)
    assert added[4] > 10 * gray
    over = reference_latency.ratios(times)
    assert over["yolov8n conv"].minimum == times["yolov8n conv"].minimum / times[plain].minimum


def test_other_nets_have_the_forms_of_the_row_alone(reference_latency: ModuleType) -> None:
    assert reference_latency.forms("dsmoe-n") == ["pack", "local", "conv", "conv-local"]


def test_bars(reference_latency: ModuleType, interleaved: ModuleType) -> None:
    over = {
        f"yolov8n {form}": interleaved.Timing(r, r, r) for form, r in (("pack", 1.02), ("conv", 1.06), ("features", 2))
    }
    first, second = reference_latency.bars(over, 320)
    assert str(first) == "yolov8n pack, 320 px: 1.020 (median 1.020, processor 1.020), aim <= 1.05: holds"
    assert not second.holds


def test_whole_run(
    reference_latency: ModuleType,
    measured: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(reference_latency, "measure", lambda net, imgsz, repeats, folder: measured)
    file = tmp_path / "reference.json"
    monkeypatch.setattr(sys, "argv", ["reference_latency.py", "--json", str(file), "--imgsz", "64", "--repeats", "1"])
    reference_latency.main()
    out = capsys.readouterr().out
    assert "64 px:" in out.splitlines()
    assert out.splitlines()[-1].startswith("yolov8n conv-local, 64 px: ")
    found = json.loads(file.read_text())
    assert [r["net"] for r in found["results"]] == list(measured[0])
    assert "over" not in found["results"][0]
    assert len(found["bars"]) == 4
    line = next(line for line in out.splitlines() if line.startswith("yolov8n conv "))
    assert line.split()[2] == "+9"


def test_usage(reference_latency: ModuleType, usage_error: Callable[..., str]) -> None:
    assert "--imgsz: expected a multiple of 32, got 100" in usage_error(reference_latency, "--imgsz", "100")
    assert "invalid choice: 'yolov9'" in usage_error(reference_latency, "--nets", "yolov9")
