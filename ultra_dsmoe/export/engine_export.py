"""``yolo export format=engine`` for our networks: where an engine can be built, and what to do where it cannot.

In FP32 and FP16 the host's exporter builds the engine. INT8 is ours: the host would let TensorRT choose what to
quantize, which takes no heed of router, norms, hyperbolic distances and sampling. A machine without TensorRT or GPU
gets the ONNX file, for INT8 with its Q/DQ nodes, the command that builds the engine on the box, and an error: there is
no engine.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.export.precision import scheme_of
from ultra_dsmoe.runtime.engine import build_engine

PRECISIONS: dict[int | str, str] = {8: "int8", 16: "fp16", 32: "fp32"}
ENGINE_ONLY = {"format", "workspace", "half", "int8", "quantize", "data", "fraction"}


def export_engine(stock: Callable[..., str], kwargs: dict[str, Any]) -> str:
    """Export an engine, or the ONNX file that it is built from where this machine cannot build one.

    Args:
        stock: The host's export.
        kwargs: Its arguments, with ``format=engine``.

    Returns:
        The engine, or the ONNX file.

    Raises:
        ConfigError: If INT8 has no data set to calibrate on, or the engine cannot be built as asked.
    """
    from ultralytics.utils import LOGGER

    lacking, precision = missing(), precision_of(kwargs)
    if not lacking and precision != "int8":
        return stock(**kwargs)
    if precision == "int8" and not kwargs.get("data"):
        raise ConfigError("data", "a data YAML with a 'val' split, to calibrate INT8 on", "none")
    file = Path(stock(**onnx_arguments(kwargs, lacking)))
    engine = file.with_suffix(".engine")
    if precision == "int8":
        file = _quantized(file, kwargs)
    if not lacking:
        return str(build_engine(file, engine, precision=precision, workspace=kwargs.get("workspace")))
    LOGGER.warning(recipe(file, engine, precision, kwargs.get("workspace")))
    return str(file)


def require_engine(file: str) -> None:
    """Refuse to call an export done that left the ONNX file instead of the engine, once that file has been checked.

    Raises:
        ConfigError: If ``file`` is no engine.
    """
    if Path(file).suffix != ".engine":
        lacking, wanted = " and ".join(missing()), "a machine with TensorRT and a GPU for format=engine"
        raise ConfigError("format", wanted, f"{lacking}: no engine was made, {file} is what builds one on the box")


def missing() -> list[str]:
    """Return what this machine lacks to build engines; empty where it can."""
    import torch

    absent = [] if find_spec("tensorrt") else ["no TensorRT"]
    return absent if torch.cuda.is_available() else [*absent, "no NVIDIA GPU"]


def precision_of(kwargs: dict[str, Any]) -> str:
    """Return the precision of the engine that an export asks for.

    Raises:
        ConfigError: If engines have none such, or the host has no such word.
    """
    scheme = scheme_of(kwargs)
    if scheme not in PRECISIONS:
        raise ConfigError("quantize", "8, 16 or 32 for an engine", scheme)
    return PRECISIONS[scheme]


def onnx_arguments(kwargs: dict[str, Any], lacking: list[str]) -> dict[str, Any]:
    """Return the arguments that export the ONNX file of an engine, on the CPU where there is no GPU."""
    left_out = ENGINE_ONLY | {"device"} if lacking else ENGINE_ONLY
    return {**{k: v for k, v in kwargs.items() if k not in left_out}, "format": "onnx"}


def recipe(file: Path, engine: Path, precision: str, workspace: float | None) -> str:
    """Return what to do with an ONNX file where the engine could not be built."""
    flags = "" if precision == "fp32" else f" precision={precision}"
    flags += "" if workspace is None else f" workspace={workspace:g}"
    named = "" if engine.stem == file.stem else f" out={engine.name}"
    return (
        f"format=engine: no engine can be built here, exported {file} instead.\n"
        "Build the engine on the box that will run it, it needs numpy and TensorRT alone:\n"
        f"    python -m ultra_dsmoe.runtime.engine {file.name}{flags}{named}\n"
        "Versions for its card: dsmoe-yolo edge check gpu=NAME"
    )


def _quantized(file: Path, kwargs: dict[str, Any]) -> Path:
    """Return a copy of an ONNX file with Q/DQ nodes, calibrated on the validation half."""
    from ultra_dsmoe.export.images import split_images, spread
    from ultra_dsmoe.export.quantize import IMAGES, quantize

    files = split_images(kwargs["data"], fraction=kwargs.get("fraction") or 1.0, download=True)
    return quantize(file, spread(files, IMAGES)).path
