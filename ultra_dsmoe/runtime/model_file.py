"""What an exported file says about itself, read with the standard library alone.

The host writes one table of metadata into every file: an ONNX file carries it as text in its ``metadata_props``, an
engine as a header of four bytes, little-endian length, and that many bytes of JSON. A box that only builds or runs
engines has neither `onnx` nor torch, so the few fields of the ONNX file that matter are read from its bytes.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultra_dsmoe.errors import ConfigError, WeightsError
from ultra_dsmoe.files import whole_file
from ultra_dsmoe.runtime.reference_entry import ReferenceEntry, read_entry

TENSORRT_KEY, BYTES_KEY = "tensorrt", "engine_bytes"  # what our builder adds for clearer errors
REQUIRED = ("task", "stride", "imgsz", "names")
INTEGERS = ("stride", "batch", "channels")
LITERALS = ("imgsz", "names", "args", "end2end")  # what the host writes as Python text into ONNX files
HEADER_BYTES = 4
# Bounds of what is believed (our choice): a file may come from anywhere, and its numbers size memory.
MOST = 1 << 16  # pixels of a side, channels, images of a batch, pixels of a stride
MOST_CHARACTERS = 1 << 20  # of one value: names of ten thousand classes take half of it
SHOWN = 60  # characters of a wrong value in an error
VARINT_BITS = 64

# Field numbers of onnx.proto (ModelProto, GraphProto, NodeProto, OperatorSetIdProto, StringStringEntryProto)
MODEL_GRAPH, MODEL_OPSETS, MODEL_METADATA = 7, 8, 14
GRAPH_NODE, NODE_OPERATOR = 1, 4
OPSET_DOMAIN, OPSET_VERSION = 1, 2
ENTRY_KEY, ENTRY_VALUE = 1, 2
VARINT, BYTES, FIXED = 0, 2, {1: 8, 5: 4}  # wire types of protobuf


@dataclass(frozen=True)
class OnnxFile:
    """The parts of an ONNX file that can be read without `onnx`.

    Attributes:
        metadata: The host's table, values of known keys as Python objects.
        opset: Version of the standard operators.
        quantized: Whether the graph holds Q/DQ nodes.
    """

    metadata: dict[str, Any]
    opset: int
    quantized: bool


@dataclass(frozen=True)
class ModelInfo:
    """What is needed to run a detector.

    Attributes:
        names: Class number to class name.
        stride: Largest stride; sizes of a dynamic graph are multiples of it.
        imgsz: Height and width of the network's input, pixels.
        channels: Of the input; of pairs, twice those of an image.
        batch: Images per run that the file was exported for.
        dynamic: Whether batch and size may differ from it.
        final: Whether the file selects its detections itself (end to end, or with embedded NMS).
        reference: What it says about references, None for a file that takes none.
    """

    names: dict[int, str]
    stride: int
    imgsz: tuple[int, int]
    channels: int
    batch: int
    dynamic: bool
    final: bool
    reference: ReferenceEntry | None = None


def read_onnx(path: Path) -> OnnxFile:
    """Read an ONNX file.

    Raises:
        WeightsError: If it is missing, cut short or of another format.
    """
    data = _bytes(path)
    metadata: dict[str, Any] = {}
    opset, quantized, has_graph = 0, False, False
    try:
        for number, value in _fields(data):
            if number == MODEL_GRAPH:
                has_graph, quantized = True, _has_quantizer(value)
            elif number == MODEL_OPSETS:
                entry = dict(_fields(value))
                if not _text(entry.get(OPSET_DOMAIN, b"")):  # the standard operators have no domain
                    opset = int(entry[OPSET_VERSION])
            elif number == MODEL_METADATA:
                entry = dict(_fields(value))
                metadata[_text(entry[ENTRY_KEY]).decode()] = _text(entry.get(ENTRY_VALUE, b"")).decode()
    except (ValueError, IndexError, KeyError, TypeError) as e:
        raise _not_complete(path, len(data)) from e
    if not has_graph:
        raise _not_complete(path, len(data))
    return OnnxFile(_typed(metadata, path), opset, quantized)


def read_engine(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return the metadata of an engine file and the engine.

    Raises:
        WeightsError: If it is missing, has no header of the host, or is shorter than our builder wrote it.
    """
    data = _bytes(path)
    length = int.from_bytes(data[:HEADER_BYTES], "little")
    try:
        metadata = json.loads(bytes(data[HEADER_BYTES : HEADER_BYTES + length])) if 0 < length < len(data) else None
    except (ValueError, RecursionError):  # bytes of an engine are no JSON, and no table is nested without end
        metadata = None
    if not isinstance(metadata, dict):
        raise WeightsError(str(path), "an engine with the metadata header of `yolo export`", f"{len(data)} bytes")
    engine = data[HEADER_BYTES + length :]
    expected = metadata.get(BYTES_KEY, len(engine))
    if len(engine) != expected or not engine:
        raise WeightsError(str(path), f"{expected} bytes of engine", f"{len(engine)}: the file is not complete")
    return _typed(metadata, path), bytes(engine)


def write_engine(path: Path, metadata: dict[str, Any], engine: bytes) -> None:
    """Write an engine as the host does, under its name only once it is complete.

    Args:
        path: The file to write.
        metadata: The host's table.
        engine: The serialized engine.
    """
    header = json.dumps({**metadata, BYTES_KEY: len(engine)}).encode()
    with whole_file(path) as part, part.open("wb") as f:
        f.write(len(header).to_bytes(HEADER_BYTES, "little"))
        f.write(header)
        f.write(engine)


def model_info(path: Path, metadata: dict[str, Any]) -> ModelInfo:
    """Return what the metadata of a detector say.

    Raises:
        WeightsError: If they are missing or damaged.
        ConfigError: If the file is no detector.
    """
    missing = [key for key in REQUIRED if key not in metadata]
    if missing:
        came = f"none of {', '.join(missing)}" if metadata else "no metadata"
        raise WeightsError(str(path), "the metadata that `yolo export` writes", came)
    if metadata["task"] != "detect":
        raise ConfigError(str(path), "a detector (task=detect)", f"task={metadata['task']}")
    reference = read_entry(metadata, path.name)
    try:
        arguments = metadata.get("args") or {}
        height, width = metadata["imgsz"]
        return ModelInfo(
            names=_names(metadata["names"]),
            stride=_whole("stride", metadata["stride"]),
            imgsz=(_whole("imgsz", height), _whole("imgsz", width)),
            channels=_whole("channels", metadata.get("channels", 3)),
            batch=_whole("batch", metadata.get("batch", 1)),
            dynamic=bool(arguments.get("dynamic")),
            final=bool(metadata.get("end2end") or arguments.get("nms")),
            reference=reference,
        )
    except (ValueError, TypeError, AttributeError) as e:
        raise WeightsError(str(path), "metadata as `yolo export` writes them", str(e)) from e


def _whole(key: str, value: Any, least: int = 1) -> int:
    """Return a whole number that can be the size of something.

    Raises:
        ValueError: If it is none.
    """
    number = value if type(value) is int else int(value) if isinstance(value, str) else -1  # True is no size either
    if not least <= number <= MOST:
        raise ValueError(f"{key} {_short(value)}")
    return number


def _names(value: Any) -> dict[int, str]:
    """Return class number to class name, of classes 0 to n - 1.

    Raises:
        ValueError: If they are not.
    """
    names = {_whole("class number", k, 0): str(v) for k, v in dict(value).items()}
    if not names or sorted(names) != list(range(len(names))):
        raise ValueError(f"names {_short(value)}")
    return names


def _short(value: Any) -> str:
    """Return a value as an error shows it, not at the length that a file likes."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _typed(metadata: dict[str, Any], path: Path) -> dict[str, Any]:
    """Turn the values that the host wrote as text back into numbers, lists and dictionaries."""
    typed = dict(metadata)
    try:
        for key in INTEGERS:
            if key in typed:
                typed[key] = _whole(key, typed[key])
        for key in LITERALS:
            if isinstance(typed.get(key), str):
                if len(typed[key]) > MOST_CHARACTERS:
                    raise ValueError(f"{len(typed[key])} characters")
                typed[key] = ast.literal_eval(typed[key])
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as e:  # the last two: nested too deeply
        expected = f"metadata as `yolo export` writes them, also {key}"
        raise WeightsError(str(path), expected, _short(typed[key])) from e
    return typed


def _bytes(path: Path) -> memoryview:
    try:
        return memoryview(path.read_bytes())
    except OSError as e:
        raise WeightsError(str(path), "a readable file", e.strerror or type(e).__name__) from e


def _not_complete(path: Path, size: int) -> WeightsError:
    return WeightsError(str(path), "a complete ONNX file", f"{size} bytes that are cut short or of another format")


def _text(value: Any) -> bytes:
    """Return the bytes of a field; a number in its place would be taken for a length.

    Raises:
        ValueError: If it is a number.
    """
    if isinstance(value, int):
        raise ValueError("a number in place of text")
    return bytes(value)


def _has_quantizer(graph: Any) -> bool:
    for number, node in _fields(graph):
        if number == GRAPH_NODE and _text(dict(_fields(node))[NODE_OPERATOR]) == b"QuantizeLinear":
            return True
    return False


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield (field number, value) of one protobuf message: int, or a view of the bytes, which are not copied.

    Raises:
        ValueError: If a field ends behind the message.
    """
    i = 0
    while i < len(data):
        tag, i = _varint(data, i)
        kind = tag & 7
        if kind == VARINT:
            value, i = _varint(data, i)
            yield tag >> 3, value
            continue
        if kind == BYTES:
            size, i = _varint(data, i)
        elif kind in FIXED:
            size = FIXED[kind]
        else:
            raise ValueError(f"wire type {kind}")
        if i + size > len(data):
            raise ValueError(f"{size} bytes at {i} of {len(data)}")
        yield tag >> 3, data[i : i + size]
        i += size


def _varint(data: memoryview, i: int) -> tuple[int, int]:
    """Return the number that starts at ``i``, seven bits per byte, and where it ends.

    Raises:
        ValueError: If it does not end.
    """
    value = shift = 0
    while shift < VARINT_BITS:
        byte = data[i]
        value, shift, i = value | (byte & 0x7F) << shift, shift + 7, i + 1
        if byte < 0x80:
            return value, i
    raise ValueError(f"a number of more than {VARINT_BITS} bits")
