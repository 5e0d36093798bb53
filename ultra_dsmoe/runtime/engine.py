"""Build a TensorRT engine from an ONNX file on the box that will run it.

    python -m ultra_dsmoe.runtime.engine best.onnx [precision=fp16|int8] [workspace=GiB] [out=best.engine]

``dsmoe-yolo edge build`` is the same command, for a box that has the training stack. An engine runs only on the kind of
GPU and the TensorRT version that built it. The box needs TensorRT and numpy, neither torch nor the host. The file
begins with the host's metadata header, so ``yolo predict model=best.engine`` and `ultra_dsmoe.runtime.detector` read
it.

INT8 is explicit: it runs where the ONNX file holds Q/DQ nodes (`dsmoe-yolo edge quantize` puts them in) and nowhere
else; TensorRT calibrates nothing. Not run on a GTX 1080 yet; there, FP16 computes at 1/64 of the speed of FP32.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ultra_dsmoe import checks
from ultra_dsmoe.causes import one_line_errors
from ultra_dsmoe.deprecations import Former
from ultra_dsmoe.errors import ConfigError, WeightsError
from ultra_dsmoe.files import can_write
from ultra_dsmoe.parsing import Command, Given, Option, number, one_of, text
from ultra_dsmoe.runtime.model_file import (
    TENSORRT_KEY,
    ModelInfo,
    OnnxFile,
    model_info,
    read_onnx,
    write_engine,
)

OLDEST = (8, 5)  # the first with GridSample in its ONNX parser and with named tensors
LEGACY_MAJOR = 8  # has networks of implicit batch too, and an ONNX parser for opsets up to
LEGACY_OPSET = 17
BROKEN = ("10.2.0",)  # the host's exclusion
FLAGS = {"fp32": None, "fp16": "FP16", "int8": "INT8"}  # precision to builder flag
GIB = 1 << 30
WORKSPACE = (0.001, 1024)  # GiB of the builder's working memory that may be asked for
MEGABYTE = 1e6


def build_engine(
    source: str | Path, output: str | Path | None = None, *, precision: str = "fp32", workspace: float | None = None
) -> Path:
    """Build an engine and write it with the host's metadata; the file appears only once it is complete.

    Args:
        source: An ONNX file of a detector, written by ``yolo export``.
        output: The engine file; beside the source by default.
        precision: ``fp32``, ``fp16`` or ``int8``; a file with Q/DQ nodes is always built as ``int8``.
        workspace: Limit of the builder's working memory in GiB; None leaves it to TensorRT.

    Returns:
        The engine file.

    Raises:
        ConfigError: If a setting cannot be met by this TensorRT, GPU or file.
        WeightsError: If the ONNX file is damaged, without metadata, or not understood by TensorRT.
    """
    source = Path(source)
    output = source.with_suffix(".engine") if output is None else Path(output)
    if source.suffix != ".onnx":
        raise ConfigError("model", "an .onnx file", str(source))
    checks.one_of("precision", precision, FLAGS)
    if workspace is not None:
        checks.number("workspace", workspace, *WORKSPACE)
    # Said now, not after minutes of building.
    if not output.parent.is_dir() or output.is_dir() or not can_write(output.parent):
        raise ConfigError("output", "a file in a folder that exists and can be written", str(output))
    file = read_onnx(source)
    info = model_info(source, file.metadata)
    trt = _tensorrt()
    precision = _fitting_precision(source, file, precision, trt)
    engine = _build(trt, source, info, precision, workspace)
    write_engine(output, {**file.metadata, TENSORRT_KEY: trt.__version__}, engine)
    return output


def _tensorrt() -> Any:
    """Return TensorRT.

    Raises:
        ConfigError: If it is not installed, or in a version that cannot build our networks.
    """
    expected = f"TensorRT {'.'.join(map(str, OLDEST))} or newer (8.6.1 for a GTX 1080)"
    try:
        import tensorrt
    except ImportError as e:
        raise ConfigError("tensorrt", expected, f"none ({e})") from e
    if _version(tensorrt) < OLDEST or tensorrt.__version__ in BROKEN:
        raise ConfigError("tensorrt", f"{expected}, not {', '.join(BROKEN)}", tensorrt.__version__)
    return tensorrt


def _version(trt: Any) -> tuple[int, int]:
    major, minor = (int(n) for n in re.findall(r"\d+", trt.__version__)[:2])
    return major, minor


def _fitting_precision(source: Path, file: OnnxFile, precision: str, trt: Any) -> str:
    """Return the precision to build in, which Q/DQ nodes decide where there are any.

    Raises:
        ConfigError: If file, precision and TensorRT do not go together.
    """
    if _version(trt)[0] == LEGACY_MAJOR and file.opset > LEGACY_OPSET:
        # Its parser takes newer files, but reduces over all axes where they became an input.
        expected = f"opset {LEGACY_OPSET} or lower for TensorRT {trt.__version__}"
        raise ConfigError(str(source), expected, f"{file.opset}: export again with opset={LEGACY_OPSET}")
    if precision == "int8" and not file.quantized:
        made = "dsmoe-yolo edge quantize makes one"
        raise ConfigError("int8", f"an ONNX file with Q/DQ nodes ({made})", f"{source} without")
    if precision == "fp16" and file.quantized:
        raise ConfigError("fp16", "an ONNX file without Q/DQ nodes", f"{source} with")
    if precision == "fp16" and not hasattr(trt.BuilderFlag, "FP16"):
        expected = "TensorRT 10 or older (newer ones take the precision from the ONNX file)"
        raise ConfigError("fp16", expected, trt.__version__)
    return "int8" if file.quantized else precision


def _build(trt: Any, source: Path, info: ModelInfo, precision: str, workspace: float | None) -> bytes:
    """Return the serialized engine."""
    logger = trt.Logger(trt.Logger.WARNING)
    try:
        builder = trt.Builder(logger)
    except TypeError as e:  # how the bindings say that there is no GPU
        raise ConfigError("tensorrt", "a machine with an NVIDIA GPU and its driver", str(e)) from e
    legacy = _version(trt)[0] == LEGACY_MAJOR
    explicit = 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH) if legacy else 0  # later the only kind
    network = builder.create_network(explicit)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(source)):
        faults = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise WeightsError(str(source), f"a graph that TensorRT {trt.__version__} reads", "; ".join(faults))
    config = builder.create_builder_config()
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(workspace * GIB))
    _set_precision(trt, builder, config, precision)
    _set_profile(builder, config, network, info)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise WeightsError(str(source), f"a network that TensorRT {trt.__version__} builds", "the failure above")
    return bytes(engine)


def _set_precision(trt: Any, builder: Any, config: Any, precision: str) -> None:
    """Permit a precision below FP32 where it is one that the GPU computes fast.

    Raises:
        ConfigError: If the GPU does not.
    """
    flag = FLAGS[precision]
    if flag is None:
        return
    if not getattr(builder, f"platform_has_fast_{precision}", True):  # gone from TensorRT 10
        raise ConfigError(precision, f"a GPU with fast {flag} arithmetic", "one without")
    if hasattr(trt.BuilderFlag, flag):  # gone from TensorRT 11, which reads Q/DQ without
        config.set_flag(getattr(trt.BuilderFlag, flag))


def _set_profile(builder: Any, config: Any, network: Any, info: ModelInfo) -> None:
    """Give the free axes of a dynamic graph their bounds: from one stride to the exported batch and size."""
    image = network.get_input(0)
    if -1 not in tuple(image.shape):
        return
    most = (info.batch, info.channels, *info.imgsz)
    least = (1, info.channels, info.stride, info.stride)
    fixed = tuple(image.shape)
    low, high = (tuple(f if f != -1 else n for f, n in zip(fixed, wanted, strict=True)) for wanted in (least, most))
    profile = builder.create_optimization_profile()
    profile.set_shape(image.name, low, high, high)
    config.add_optimization_profile(profile)


def build(given: Given) -> int:
    """Build the engine that the words of a command ask for."""
    print(f"building an engine from {given['model']}: this takes minutes", flush=True)
    built = build_engine(
        given["model"],
        given.get("out"),
        precision=given.get("precision", "fp32"),
        workspace=given.get("workspace"),
    )
    print(f"{built}: {built.stat().st_size / MEGABYTE:.1f} MB")
    return 0


BUILD = Command(
    "edge build",
    """Builds a TensorRT engine on the box that will run it. Without the training stack on the box: python -m
ultra_dsmoe.runtime.engine best.onnx.""",
    {
        "model": Option(text, "ONNX file written by `yolo export ... format=onnx opset=17`"),
        "precision": Option(one_of(FLAGS), "|".join(FLAGS) + "; int8 for files with Q/DQ nodes", "fp32"),
        "workspace": Option(number(*WORKSPACE), "limit of the builder's working memory in GiB", "the builder's own"),
        "out": Option(text, "file to write", "the model's name with .engine"),
    },
    build,
    {"model": "one .onnx file as first argument, such as best.onnx"},
    former={
        "output": Former("out", goes="0.3.0"),
        "fp16": Former("precision=fp16", goes="0.3.0"),
        "int8": Former("precision=int8", goes="0.3.0"),
    },
)


def main(argv: list[str] | None = None) -> int:
    """Run the command by the module's name; a user error ends it with one line and exit code 1."""
    command = replace(BUILD, words="ultra_dsmoe.runtime.engine", program="python -m")
    with one_line_errors():
        return command.main(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
