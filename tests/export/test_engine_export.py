"""The host's ``format=engine``: built where it can be, else a file and a recipe; INT8 by nodes of the file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ultralytics import YOLO

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.export import engine_export
from ultra_dsmoe.export.engine_export import export_engine, require_engine
from ultra_dsmoe.runtime.model_file import read_onnx

Export = Callable[..., Path]


@pytest.fixture
def stock(source: Path, tmp_path: Path) -> Callable[..., str]:
    """Return a stand-in for the host's export that notes its arguments and writes the ONNX file."""

    def export(**kwargs: Any) -> str:
        export.given = kwargs
        path = tmp_path / f"best.{kwargs['format']}"
        path.write_bytes(source.read_bytes())
        return str(path)

    return export


def able(monkeypatch: pytest.MonkeyPatch, *lacking: str) -> None:
    monkeypatch.setattr(engine_export, "missing", lambda: list(lacking))


@pytest.mark.parametrize("arguments", [{}, {"half": True}, {"quantize": 16, "workspace": 2, "device": 0}])
def test_the_host_builds_what_it_can(
    arguments: dict[str, Any], stock: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    able(monkeypatch)
    given = {"format": "engine", "opset": 17, **arguments}
    assert export_engine(stock, given).endswith("best.engine")
    assert stock.given == given


def test_without_a_gpu_there_is_a_file_and_a_recipe(
    stock: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    able(monkeypatch, "no TensorRT", "no NVIDIA GPU")
    given = {"format": "engine", "opset": 17, "imgsz": 96, "half": True, "device": 0, "workspace": 4.0}
    assert export_engine(stock, given) == str(tmp_path / "best.onnx")
    assert stock.given == {"format": "onnx", "opset": 17, "imgsz": 96}
    first, _, command, _ = caplog.messages[-1].splitlines()
    assert first.endswith(f"format=engine: no engine can be built here, exported {tmp_path / 'best.onnx'} instead.")
    assert command.strip() == "python -m ultra_dsmoe.runtime.engine best.onnx precision=fp16 workspace=4"


def test_int8_is_explicit(
    stock: Callable[..., str],
    install: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_boards: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = {"format": "engine", "opset": 17, "quantize": "int8", "data": str(tiny_boards), "device": 0}
    able(monkeypatch, "no NVIDIA GPU")
    assert export_engine(stock, given) == str(tmp_path / "best-int8.onnx")
    assert stock.given == {"format": "onnx", "opset": 17}
    command = caplog.messages[-1].splitlines()[2].split()
    assert command[2:] == ["ultra_dsmoe.runtime.engine", "best-int8.onnx", "precision=int8", "out=best.engine"]
    able(monkeypatch)
    trt = install("8.6.1")
    assert export_engine(stock, given) == str(tmp_path / "best.engine")
    assert stock.given == {"format": "onnx", "opset": 17, "device": 0}
    assert [call for call in trt.calls if call[0] in ("parse", "flag")] == [
        ("parse", "best-int8.onnx"),
        ("flag", "int8"),
    ]
    with pytest.raises(ConfigError, match="data: expected a data YAML with a 'val' split, to calibrate INT8 on"):
        export_engine(stock, {"format": "engine", "int8": True})


def test_the_command_on_a_machine_without_gpu(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The ONNX file is there, checked, with what to do next; a script sees that there is no engine."""
    able(monkeypatch, "no TensorRT", "no NVIDIA GPU")
    checkpoint = tmp_path / "best.pt"
    shutil.copy(exported("dsmoe-n.yaml", opset=17).with_suffix(".pt"), checkpoint)
    with pytest.raises(
        ConfigError, match=r"^format: expected .* got no TensorRT and no NVIDIA GPU: no engine"
    ) as caught:
        YOLO(checkpoint).export(format="engine", imgsz=96, simplify=False, dsmoe_moe="gather", device=0)
    file = checkpoint.with_suffix(".onnx")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "python -m ultra_dsmoe.runtime.engine best.onnx" in caplog.text
    assert "parity: 8 images" in caplog.text
    assert read_onnx(file).metadata["dsmoe_moe"] == "gather"


def test_engines_have_no_mixed_precision(stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    able(monkeypatch)
    with pytest.raises(ConfigError, match="quantize: expected 8, 16 or 32 for an engine, got w8a16"):
        export_engine(stock, {"format": "engine", "quantize": "w8a16"})


def test_an_engine_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    able(monkeypatch)
    require_engine("a/best.engine")


def test_what_this_machine_lacks(install: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(engine_export, "find_spec", lambda name: None)
    assert engine_export.missing() == ["no TensorRT", "no NVIDIA GPU"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert engine_export.missing() == ["no TensorRT"]
    monkeypatch.setattr(engine_export, "find_spec", lambda name: name)
    assert engine_export.missing() == []
