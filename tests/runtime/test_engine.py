"""Engines up to TensorRT's own calls, which a stand-in records: building, and what cannot be built."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_tensorrt import VERSIONS

from ultra_dsmoe.errors import ConfigError, WeightsError
from ultra_dsmoe.runtime.engine import build_engine, main

Export = Callable[..., Path]


def quantized(path: Path, target: Path) -> Path:
    """Copy an ONNX file with one Q/DQ pair in front of its first convolution."""
    model = onnx.load(path)
    first = next(n for n in model.graph.node if n.op_type == "Conv")
    scale = onnx.numpy_helper.from_array(np.float32(1 / 127), "scale")
    zero = onnx.numpy_helper.from_array(np.int8(0), "zero")
    model.graph.initializer.extend([scale, zero])
    model.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]))
    model.graph.node.insert(0, onnx.helper.make_node("QuantizeLinear", [first.input[0], "scale", "zero"], ["q"]))
    first.input[0] = "dq"
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_calls_of_both_generations(
    version: str, precision: str, install: Callable[..., Any], source: Path, tmp_path: Path
) -> None:
    trt = install(version)
    build_engine(source, tmp_path / "a.engine", precision=precision, workspace=1.5)
    explicit = 1 if version.startswith("8") else 0  # 1 << EXPLICIT_BATCH
    flags = [("flag", "fp16")] if precision == "fp16" else []
    expected = [("network", explicit), ("parse", source.name), ("memory", "workspace", 3 << 29), *flags, ("build",)]
    assert trt.calls == expected


@pytest.mark.parametrize("version", [*VERSIONS, "11.0.0"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_nodes_of_the_file_decide_on_int8(
    version: str, precision: str, install: Callable[..., Any], source: Path, tmp_path: Path
) -> None:
    trt = install(version)
    file = quantized(source, tmp_path / "q.onnx")
    build_engine(file, precision=precision)
    assert ("flag", "int8") in trt.calls or version.startswith("11")
    assert ("flag", "fp16") not in trt.calls


@pytest.mark.parametrize("version", VERSIONS)
def test_dynamic_graph_gets_a_profile(
    version: str, install: Callable[..., Any], exported: Export, tmp_path: Path
) -> None:
    trt = install(version)
    build_engine(exported("yolov8n.yaml", opset=17, dynamic=True, batch=2), tmp_path / "d.engine")
    most = (2, 3, 96, 96)
    assert ("shapes", "images", (1, 3, 32, 32), most, most) in trt.calls
    assert ("profile",) in trt.calls


def test_file_has_the_hosts_header(install: Callable[..., Any], source: Path, tmp_path: Path) -> None:
    install("8.6.1")
    path = build_engine(source, tmp_path / "best.engine")
    data = path.read_bytes()
    length = int.from_bytes(data[:4], "little", signed=True)  # as the host writes it
    header = json.loads(data[4 : 4 + length])
    assert data[4 + length :] == b"8.6.1\n" + source.read_bytes()
    assert header["names"]["0"] == "spur"
    assert (header["imgsz"], header["stride"], header["task"], header["batch"]) == ([96, 96], 32, "detect", 1)
    assert header["tensorrt"] == "8.6.1"
    assert header["engine_bytes"] == len(data) - 4 - length


def test_the_host_reads_the_header(install: Callable[..., Any], source: Path, tmp_path: Path) -> None:
    base: Any = pytest.importorskip("ultralytics.nn.backends.base", reason="hosts before 8.4.100 read it elsewhere")
    install("8.6.1")
    path = build_engine(source, tmp_path / "best.engine")
    offset, metadata = base.BaseBackend.engine_header(path)
    assert path.read_bytes()[offset:].startswith(b"8.6.1\n")

    class Backend(base.BaseBackend):  # type: ignore[name-defined]  # a module that not every host has
        def load_model(self, weight: Any) -> None:
            self.apply_metadata(metadata)

        def forward(self, im: Any) -> Any: ...

    backend = Backend(path, "cpu")
    assert (backend.stride, backend.imgsz, backend.task, backend.batch) == (32, [96, 96], "detect", 1)
    assert backend.names["0"] == "spur"
    assert backend.end2end is False


def test_nothing_half_written_is_left(
    install: Callable[..., Any], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("10.3.0")
    target = tmp_path / "best.engine"
    target.write_bytes(b"the engine of yesterday")

    def full(_handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        build_engine(source, target)
    assert [p.name for p in tmp_path.iterdir()] == ["best.engine"]
    assert target.read_bytes() == b"the engine of yesterday"


def test_module_needs_neither_torch_nor_onnx(source: Path, tmp_path: Path) -> None:
    """In a fresh process where they are blocked, it comes as far as TensorRT."""
    block = (
        "import sys\nfor n in ('torch', 'ultralytics', 'onnx', 'onnxruntime', 'cv2', 'tensorrt'): sys.modules[n] = None"
        "\nfrom ultra_dsmoe.runtime.engine import main\nsys.exit(main(sys.argv[1:]))"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    command = [sys.executable, "-c", block, str(source), f"out={tmp_path / 'a.engine'}"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    expected = "error: tensorrt: expected TensorRT 8.5 or newer (8.6.1 for a GTX 1080), got none"
    assert done.stderr.strip().startswith(expected)
    assert done.stderr.count("\n") == 1


# bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "settings", "arguments", "message"),
    [
        ("8.4.3", {}, {}, "tensorrt: expected TensorRT 8.5 or newer .* got 8.4.3"),
        ("10.2.0", {}, {}, "tensorrt: expected .* not 10.2.0, got 10.2.0"),
        ("8.6.1", {"gpu": False}, {}, "tensorrt: expected a machine with an NVIDIA GPU and its driver"),
        ("8.6.1", {"fast": False}, {"precision": "fp16"}, "fp16: expected a GPU with fast FP16 arithmetic, got one"),
        ("11.0.0", {}, {"precision": "fp16"}, "fp16: expected TensorRT 10 or older .* got 11.0.0"),
        ("8.6.1", {}, {"precision": "int8"}, "int8: expected an ONNX file with Q/DQ nodes .*quantize makes one"),
        ("8.6.1", {}, {"precision": "fp8"}, "precision: expected one of fp32, fp16, int8, got fp8"),
        ("8.6.1", {}, {"workspace": 0}, "workspace: expected a number from 0.001 to 1024, got 0"),
    ],
)
def test_settings_that_cannot_be_met(
    version: str,
    settings: dict[str, Any],
    arguments: dict[str, Any],
    message: str,
    install: Callable[..., Any],
    source: Path,
    tmp_path: Path,
) -> None:
    install(version, **settings)
    with pytest.raises(ConfigError, match=message):
        build_engine(source, tmp_path / "a.engine", **arguments)
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_built(
    install: Callable[..., Any], source: Path, exported: Export, tmp_path: Path
) -> None:
    trt = install("8.6.1")
    with pytest.raises(ConfigError, match=r"expected opset 17 or lower for TensorRT 8\.6\.1, got 18"):
        build_engine(exported("yolov8n.yaml", opset=18), tmp_path / "a.engine")
    with pytest.raises(ConfigError, match="fp16: expected an ONNX file without Q/DQ nodes"):
        build_engine(quantized(source, tmp_path / "q.onnx"), precision="fp16")
    with pytest.raises(ConfigError, match=r"model: expected an \.onnx file"):
        build_engine(tmp_path / "best.pt")
    with pytest.raises(WeightsError, match="expected a readable file"):
        build_engine(tmp_path / "gone.onnx")
    with pytest.raises(ConfigError, match="output: expected a file in a folder that exists and can be written"):
        build_engine(source, tmp_path / "gone" / "a.engine")
    (tmp_path / "half.onnx").write_bytes(source.read_bytes()[:100000])
    with pytest.raises(WeightsError, match="expected a complete ONNX file"):
        build_engine(tmp_path / "half.onnx")
    assert trt.calls == []
    trt.builds = False
    with pytest.raises(WeightsError, match=r"expected a network that TensorRT 8\.6\.1 builds"):
        build_engine(source, tmp_path / "a.engine")
    install("10.3.0", faults=("No importer registered for op: DFT", "and another"))
    with pytest.raises(
        WeightsError, match=r"a graph that TensorRT 10\.3\.0 reads, got No importer .* DFT; and another"
    ):
        build_engine(source, tmp_path / "a.engine")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["half.onnx", "q.onnx"]


def test_command(install: Callable[..., Any], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trt = install("10.3.0")
    out = tmp_path / "b.engine"
    assert main([str(source), "precision=fp16", "--workspace", "2", f"out={out}"]) == 0
    assert ("memory", "workspace", 2 << 30) in trt.calls
    assert ("flag", "fp16") in trt.calls
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{out}: ")
    with pytest.raises(SystemExit) as stop:
        main([str(source), "precision=int8", f"out={out}"])
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith("error: int8: expected an ONNX file with Q/DQ nodes")
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: python -m ultra_dsmoe.runtime.engine MODEL [key=value ...]")


def test_words_of_before(
    install: Callable[..., Any], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trt = install("10.3.0")
    out = tmp_path / "b.engine"
    assert main([str(source), "--fp16", "--output", str(out)]) == 0
    assert [line.split(";")[0] for line in capsys.readouterr().err.splitlines()] == [
        "caution: 'fp16' is called 'precision=fp16' now",
        "caution: 'output' is called 'out' now",
    ]
    assert out.is_file()
    assert ("flag", "fp16") in trt.calls
