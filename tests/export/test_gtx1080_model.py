"""The latency model of a GTX 1080: the line, its band, and that it says what it is."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn
from ultralytics import YOLO

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "gtx1080_model.py"


@pytest.fixture(scope="module")
def model() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gtx1080_model", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_line_goes_through_the_published_timings(model: ModuleType) -> None:
    offset, slope = model.line()
    assert offset == pytest.approx(3.6, abs=0.06)
    assert slope == pytest.approx(0.227, abs=0.001)
    for timed in model.FITTED:
        assert model.modelled_ms(timed.gflops_timed) == pytest.approx(1000 / timed.fps)
    assert model.gflops_of(model.modelled_ms(30.0)) == pytest.approx(30)


def test_band_holds_for_the_held_out_net_of_the_same_make(model: ModuleType) -> None:
    large = model.HELD_OUT[0]
    assert large.name == "YOLOv5l v4"
    assert abs(model.modelled_ms(large.gflops_timed) / large.ms - 1) < model.BAND


def test_int8_band(model: ModuleType) -> None:
    low, high = model.modelled_int8_ms(30.0)
    fp32 = model.modelled_ms(30.0)
    assert low == pytest.approx(0.75 * fp32 / (204 / 90))
    assert fp32 / 2 < high < fp32 * (1 + model.BAND)
    assert high == pytest.approx(1.25 * (model.line()[0] + model.line()[1] * 30 / (71.4 / 39.2)))


def test_work_and_traffic_of_a_net(model: ModuleType) -> None:
    gflops, gigabytes = model.measure("dsmoe-n", 64)
    net = YOLO("dsmoe-n.yaml").model
    assert gflops == pytest.approx(net.gflops(64), rel=1e-6)
    first = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    of_first = first.weight.numel() + 2 * first.out_channels * 32 * 32
    every = sum(p.numel() for p in net.parameters()) + 64 * 64 * 64 * 64
    assert of_first * 4 / 1e9 < gigabytes < every * 4 / 1e9
    assert model.measure("dsmoe-n", 128)[1] > gigabytes


def test_report_says_what_it_is(
    model: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model, "measure", lambda name, imgsz: (8.0 if name == "a" else 30.0, 0.32))
    monkeypatch.setattr(sys, "argv", ["gtx1080_model.py", "a", "b", "--imgsz", "320"])
    model.main()
    out = capsys.readouterr().out
    assert "modelled, not measured" in out.splitlines()[0]
    assert "320 px" in out.splitlines()[0]
    assert "+-25%" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line[:2] in ("a ", "b ")}
    assert rows["a"][1:6] == ["8.0", "5.4", "(4.0", "to", "6.7)"]
    assert rows["a"][-3:] == ["0.90", "0.23", "1.00"], "8 GFLOPs at the peaks, 0.32 GB at 320 GB/s"
    assert rows["b"][1:6] == ["30.0", "10.4", "(7.8", "to", "13.0)"]
    assert "YOLOv3-tiny" in out
    assert "11 ms in FP32, which the paper reports: 33 GFLOPs (23 to 49)" in out


def test_unknown_net_is_a_usage_error(
    model: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gtx1080_model.py", "dsmoe-huge"])
    with pytest.raises(SystemExit) as exit_info:
        model.main()
    assert exit_info.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "nets: expected names of model YAMLs, got" in last
    assert "dsmoe-huge" in last
