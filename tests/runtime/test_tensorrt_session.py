"""Engines run on a stand-in for TensorRT and its GPU, against the ONNX files that they were built from."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import VERSIONS, FakeDriver

from ultra_dsmoe.errors import ConfigError, ShapeError, WeightsError
from ultra_dsmoe.runtime import tensorrt_session
from ultra_dsmoe.runtime.detector import Runtime
from ultra_dsmoe.runtime.engine import build_engine
from ultra_dsmoe.runtime.model_file import read_engine, read_onnx, write_engine

Export = Callable[..., Path]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("arguments", [{}, {"dynamic": True, "batch": 2}])
def test_runtime_of_an_engine(
    version: str,
    arguments: dict[str, Any],
    install: Callable[..., Any],
    exported: Export,
    pictures: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    install(version)
    onnx_file = exported("yolov8n.yaml", opset=17, **arguments)
    engine, reference = Runtime(build_engine(onnx_file, tmp_path / "a.engine")), Runtime(onnx_file, threads=1)
    assert engine.info == reference.info
    assert engine.batch == reference.batch
    for picture in (pictures["thin"], pictures["square"], pictures["portrait"]):  # growing memory where dynamic
        found = engine.predict(picture)
        assert found
        assert found == reference.predict(picture)


def test_memory_is_reused(
    install: Callable[..., Any], source: Path, pictures: dict[str, np.ndarray], tmp_path: Path
) -> None:
    install("8.6.1")
    runtime = Runtime(build_engine(source, tmp_path / "a.engine"))
    for _ in range(3):
        runtime.predict(pictures["square"])
    driver = runtime._session._cuda._driver
    assert (len(driver.held), driver.freed) == (2, 0)


def test_engines_that_cannot_be_run(
    install: Callable[..., Any], source: Path, exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("8.6.1")
    path = build_engine(source, tmp_path / "a.engine")
    data = path.read_bytes()
    (tmp_path / "half.engine").write_bytes(data[:-1000])
    with pytest.raises(WeightsError, match=r"half\.engine: expected \d+ bytes of engine, got \d+: the file is not"):
        Runtime(tmp_path / "half.engine")
    (tmp_path / "head.engine").write_bytes(data[:200])
    with pytest.raises(WeightsError, match="expected an engine with the metadata header of `yolo export`"):
        Runtime(tmp_path / "head.engine")
    dynamic = build_engine(exported("yolov8n.yaml", opset=17, dynamic=True, batch=2), tmp_path / "d.engine")
    with pytest.raises(ShapeError, match="images: expected a shape that the engine was built for, got"):
        Runtime(dynamic).predict_batch([np.zeros((96, 96, 3), np.uint8)] * 3)
    install("10.3.0")
    with pytest.raises(WeightsError) as caught:
        Runtime(path)
    expected = f"{path}: expected an engine of TensorRT 10.3.0 for this GPU, got one of TensorRT 8.6.1"
    assert str(caught.value) == f"{expected} that does not load: build it here from the .onnx file"
    monkeypatch.setattr(tensorrt_session.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(f"no {name}")))
    with pytest.raises(ConfigError, match="engine: expected a machine with an NVIDIA driver, got none"):
        Runtime(path)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ConfigError, match=r"tensorrt: expected an installed TensorRT, to run \.engine files"):
        Runtime(path)


def test_an_engine_of_the_hosts_own_exporter(install: Callable[..., Any], source: Path, tmp_path: Path) -> None:
    """It has no length and no version in its header."""
    install("8.6.1")
    metadata = json.dumps(read_onnx(source).metadata)
    path = tmp_path / "host.engine"
    with path.open("wb") as f:  # as the host's `onnx2engine` does
        f.write(len(metadata).to_bytes(4, byteorder="little", signed=True))
        f.write(metadata.encode())
        f.write(b"8.6.1\n" + source.read_bytes())
    assert Runtime(path).info.names[0] == "spur"
    install("10.3.0")
    with pytest.raises(WeightsError, match="got one that does not load: build it here from"):
        Runtime(path)


def test_a_failing_gpu(
    install: Callable[..., Any], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("8.6.1")
    path = build_engine(source, tmp_path / "a.engine")
    monkeypatch.setattr(FakeDriver, "cuInit", staticmethod(lambda *_: 100))
    with pytest.raises(ConfigError, match="engine: expected a working NVIDIA GPU, got error 100 of cuInit"):
        Runtime(path)


def test_engine_file_round_trip(tmp_path: Path) -> None:
    write_engine(tmp_path / "a.engine", {"names": {0: "spür"}, "stride": 32}, b"\x00plan")
    metadata, engine = read_engine(tmp_path / "a.engine")
    assert engine == b"\x00plan"
    assert (metadata["names"], metadata["stride"]) == ({"0": "spür"}, 32)
