"""Timing in turn, ratios, bars, tables, arguments."""

from __future__ import annotations

import argparse
import inspect
import json
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch


def test_candidates_take_turns(interleaved: ModuleType) -> None:
    seen: list[str] = []
    times = interleaved.interleave({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 3, warm_up=2)
    assert seen == ["a", "b"] * 5
    assert list(times) == ["a", "b"]


def test_minimum_median_and_processor_time(interleaved: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that the candidate turns: ten rounds of 1 to 10 s after one of warm-up, of which it works a tenth."""
    now = {"wall": 0.0, "processor": 0.0, "round": 0.0}
    monkeypatch.setattr(time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(time, "process_time", lambda: now["processor"])

    def run() -> None:
        took = now["round"] or 100.0  # the warm-up
        now["wall"] += took
        now["processor"] += took / 10
        now["round"] += 1

    got = interleaved.interleave({"x": run}, 10, warm_up=1)["x"]
    assert got == pytest.approx((1e3, 5.5e3, 100))


def test_sleep_is_no_processor_time(interleaved: ModuleType) -> None:
    times = interleaved.interleave({"sleep": lambda: time.sleep(0.02)}, 2, warm_up=0)
    assert times["sleep"].minimum >= 20
    assert times["sleep"].processor < 10
    (line,) = interleaved.caution(times)
    assert line.startswith("the machine was busy")
    assert interleaved.caution({"x": interleaved.Timing(10.0, 30.0, 9.5)}) == []


def test_ratio(interleaved: ModuleType) -> None:
    over = interleaved.Timing(2.0, 6.0, 1.0).over(interleaved.Timing(4.0, 8.0, 4.0))
    assert over == (0.5, 0.75, 0.25)


def test_bar_says_whether_it_holds(interleaved: ModuleType) -> None:
    bar = interleaved.Bar.of("a over b", interleaved.Timing(0.3, 0.4, 0.2), 0.3)
    assert bar.holds
    assert str(bar) == "a over b: 0.300 (median 0.400, processor 0.200), aim <= 0.3: holds"
    missed = interleaved.Bar("work", 1.21, 1.2)
    assert not missed.holds
    assert str(missed) == "work: 1.210, aim <= 1.2: MISSED"
    assert bar.as_dict() == {
        "what": "a over b", "value": 0.3, "median": 0.4, "processor": 0.2, "aim": 0.3, "holds": True
    }  # fmt: skip


def test_table_is_aligned(interleaved: ModuleType) -> None:
    lines = interleaved.table(["", "ms"], [["long name", "1.0"], ["x", "10.00"]])
    assert lines == ["              ms", "long name    1.0", "x          10.00"]


def test_onnx_runner_reads_its_feed_anew(interleaved: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "double.onnx"
    legacy = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}  # torch 2.3
    torch.onnx.export(_Double(), (torch.zeros(1, 2),), str(file), input_names=["images"], **legacy)
    x = np.ones((1, 2), np.float32)
    for model in (str(file), file.read_bytes()):
        run = interleaved.onnx_runner(model, {"whatever its name": x})
        x[:] = 1
        np.testing.assert_array_equal(run(), [[2, 2]])
        x[:] = 3
        np.testing.assert_array_equal(run(), [[6, 6]])


class _Double(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_json(interleaved: ModuleType, tmp_path: Path) -> None:
    interleaved.write_json(None, {"a": 1})
    file = tmp_path / "x.json"
    interleaved.write_json(file, {"a": 1})
    found = json.loads(file.read_text())
    assert found["a"] == 1
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", ""])
def test_numbers(interleaved: ModuleType, value: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"expected an integer of at least 1, got {value}"):
        interleaved.positive(value)
    with pytest.raises(argparse.ArgumentTypeError, match=f"expected a multiple of 32, got {value}"):
        interleaved.image_size(value)


def test_accepted_arguments(interleaved: ModuleType, tmp_path: Path) -> None:
    assert interleaved.positive("7") == 7
    assert interleaved.image_size("320") == 320
    assert interleaved.new_file(str(tmp_path / "x.json")) == tmp_path / "x.json"
    with pytest.raises(argparse.ArgumentTypeError, match="expected a multiple of 32, got 100"):
        interleaved.image_size("100")
    for wrong in (tmp_path, tmp_path / "no" / "x.json"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a file in an existing folder"):
            interleaved.new_file(str(wrong))
