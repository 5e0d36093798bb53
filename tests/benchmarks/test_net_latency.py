"""The nets' benchmark: what it builds at a small size, its ratios, bars and arguments."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

PIXELS = 64


@pytest.fixture(scope="module")
def nets(net_latency: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("nets")
    before = os.getcwd()
    found = {k: v for name in ("dsmoe-n", "yolo11n") for k, v in net_latency.build(name, PIXELS, folder).items()}
    assert os.getcwd() == before
    return found


def test_runtimes_give_the_same(net_latency: ModuleType, nets: dict[str, Any]) -> None:
    """Every runtime runs the same net: ours in both modes and the peer."""
    assert list(nets) == ["dsmoe-n gather", "dsmoe-n static", "yolo11n"]
    image = np.random.default_rng(0).random((1, 3, PIXELS, PIXELS), dtype=np.float32)
    eager = net_latency.runners("torch", nets, image)
    for runtime in ("onnxruntime", "openvino"):
        for name, run in net_latency.runners(runtime, nets, image).items():
            got = run() if runtime == "onnxruntime" else next(iter(run().values()))
            np.testing.assert_allclose(got, eager[name]()[0].numpy(), atol=1e-2, rtol=1e-3, err_msg=name)


def test_static_runs_what_it_says(nets: dict[str, Any]) -> None:
    static = nets["dsmoe-n static"]
    mixture = next(m for m in static.net.modules() if hasattr(m, "set_mode"))
    assert mixture.mode == "static"
    assert len(mixture.kept) == static.kept >= mixture.k
    assert nets["dsmoe-n gather"].kept is None
    assert nets["dsmoe-n gather"].gflops == pytest.approx(nets["dsmoe-n gather"].net.gflops(PIXELS))


def test_missing_runtime(net_latency: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert net_latency.missing("torch") is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert net_latency.missing("cuda") == "PyTorch finds no GPU"
    monkeypatch.setattr(net_latency.importlib.util, "find_spec", lambda name: None)
    assert net_latency.missing("openvino") == "not installed"


def timings(interleaved: ModuleType, **ms: float) -> dict[str, Any]:
    return {name.replace("_", " ").replace("~", "-"): interleaved.Timing(t, 2 * t, t) for name, t in ms.items()}


def test_ratios_and_bars(net_latency: ModuleType, interleaved: ModuleType) -> None:
    times = timings(interleaved, **{"dsmoe~n_gather": 13, "dsmoe~n_static": 11, "yolo11n": 10,
                                    "dsmoe_gather": 80, "dsmoe_static": 70, "yolov8m": 100})  # fmt: skip
    over = net_latency.ratios(times)
    assert {name: r.minimum for name, r in over.items()} == pytest.approx(
        {"dsmoe-n gather": 1.3, "dsmoe-n static": 1.1, "dsmoe gather": 0.8, "dsmoe static": 0.7}
    )
    small, large = net_latency.bars(over)
    assert str(small) == "dsmoe-n gather over yolo11n: 1.300 (median 1.300, processor 1.300), aim <= 1.2: MISSED"
    assert (large.aim, large.holds) == (0.9, True)
    assert net_latency.bars({}) == []


def test_whole_run(
    net_latency: ModuleType,
    nets: dict[str, Any],
    interleaved: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    built: list[str] = []

    def build(name: str, imgsz: int, folder: Path) -> dict[str, Any]:
        built.append(f"{name} {imgsz}")
        return {k: v for k, v in nets.items() if k.split()[0] == name}

    monkeypatch.setattr(net_latency, "build", build)
    monkeypatch.setattr(net_latency, "missing", lambda r: "not installed" if r == "openvino" else None)
    file = tmp_path / "net.json"
    command = ["--json", str(file), "--nets", "dsmoe-n", "--imgsz", "64", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["net_latency.py", *command, "--runtimes", "onnxruntime", "openvino"])
    net_latency.main()
    out = capsys.readouterr().out
    assert built == ["dsmoe-n 64", "yolo11n 64"]
    assert "openvino: left out, not installed" in out.splitlines()
    assert "dsmoe-n gather over yolo11n: " in out.splitlines()[-1]
    found = json.loads(file.read_text())
    ms = found["ms"]["onnxruntime"]
    ratio = found["over_peer"]["onnxruntime"]["dsmoe-n gather"]["minimum"]
    assert ratio == pytest.approx(ms["dsmoe-n gather"]["minimum"] / ms["yolo11n"]["minimum"])
    assert found["bars"][0]["value"] == ratio
    assert list(found["ms"]) == ["onnxruntime"]
    assert found["nets"]["dsmoe-n static"]["kept"] == nets["dsmoe-n static"].kept


def test_usage(net_latency: ModuleType, usage_error: Callable[..., str]) -> None:
    assert "--imgsz: expected a multiple of 32, got 100" in usage_error(net_latency, "--imgsz", "100")
    assert "invalid choice: 'yolov9'" in usage_error(net_latency, "--nets", "yolov9")
    assert "invalid choice: 'ncnn'" in usage_error(net_latency, "--runtimes", "ncnn")
