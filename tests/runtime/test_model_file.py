"""Metadata of a file that may come from anywhere: read right, or refused in one line, at no cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from ultra_dsmoe.errors import WeightsError
from ultra_dsmoe.runtime.model_file import MOST_CHARACTERS, ModelInfo, model_info, read_engine, read_onnx

GOOD: dict[str, Any] = {"task": "detect", "stride": 32, "imgsz": [64, 96], "names": {0: "a", 1: "b"}, "batch": 2}
NESTED = "[" * 100_000 + "]" * 100_000
SIZES = (0, -1, -32, 1 << 17, 10**400, 1.5, True, None, "x", "", [32])


def onnx_file(path: Path, **changes: Any) -> Path:
    """Write a graph of one node with the host's metadata, as text, as the host does."""
    node = helper.make_node("Identity", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]))
    helper.set_model_props(model, {k: v if isinstance(v, str) else str(v) for k, v in {**GOOD, **changes}.items()})
    onnx.save(model, path)
    return path


def engine_file(path: Path, header: str | None = None, **changes: Any) -> Path:
    """Write an engine of four bytes with the host's metadata, as JSON."""
    text = (json.dumps({**GOOD, **changes}) if header is None else header).encode()
    path.write_bytes(len(text).to_bytes(4, "little") + text + b"plan")
    return path


def info_of(path: Path) -> ModelInfo:
    return model_info(path, read_onnx(path).metadata if path.suffix == ".onnx" else read_engine(path)[0])


@pytest.mark.parametrize("make", [onnx_file, engine_file])
def test_what_a_file_says(make: Any, tmp_path: Path) -> None:
    info = info_of(make(tmp_path / ("a.onnx" if make is onnx_file else "a.engine"), args={"nms": True}))
    assert info == ModelInfo({0: "a", 1: "b"}, 32, (64, 96), channels=3, batch=2, dynamic=False, final=True)


@pytest.mark.parametrize("value", SIZES, ids=lambda v: str(v)[:8])
@pytest.mark.parametrize("key", ["stride", "batch", "channels", "imgsz"])
def test_a_size_that_is_none(key: str, value: object, tmp_path: Path) -> None:
    given = [64, value] if key == "imgsz" else value
    for path in (onnx_file(tmp_path / "a.onnx", **{key: given}), engine_file(tmp_path / "a.engine", **{key: given})):
        with pytest.raises(
            WeightsError, match=rf"{path.name}: expected metadata as `yolo export` writes them"
        ) as caught:
            info_of(path)
        assert key in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "names",
    [{}, [], 5, "spur", {1: "a"}, {0: "a", 2: "b"}, {-1: "a", 0: "b"}, {0.5: "a"}, {"x": "a"}, {10**400: "a"}, [["a"]]],
    ids=lambda v: str(v)[:12],
)
def test_names_that_are_none(names: object, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"a\.onnx: expected metadata as `yolo export` writes them"):
        info_of(onnx_file(tmp_path / "a.onnx", names=names))


@pytest.mark.parametrize("key", ["imgsz", "names", "args", "end2end"])
@pytest.mark.parametrize(
    "text", [NESTED, "-" * 50_000 + "1", "9" * (MOST_CHARACTERS + 1)], ids=["deep", "signs", "long"]
)
def test_a_value_without_end(key: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"also {key}, got ") as caught:
        info_of(onnx_file(tmp_path / "a.onnx", **{key: text}))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (NESTED, "an engine with the metadata header"),
        ('{"stride": 1e400, "task": "detect", "imgsz": [64, 64], "names": {"0": "a"}}', "also stride, got inf"),
        ('{"stride": 32, "task": "detect", "imgsz": [1e400, 64], "names": {"0": "a"}}', "got imgsz inf"),
        ('{"stride": 32, "task": "detect", "imgsz": [NaN, 64], "names": {"0": "a"}}', "got imgsz nan"),
        ('{"stride": 32, "task": "detect", "imgsz": [64], "names": {"0": "a"}}', "as `yolo export` writes them"),
        ('{"engine_bytes": 1e400}', "inf bytes of engine"),
        ('{"engine_bytes": "4"}', "the file is not complete"),
        ('{"engine_bytes": [4]}', "the file is not complete"),
        ('["stride"]', "an engine with the metadata header"),
    ],
    ids=lambda v: v[:20],
)
def test_headers_of_engines(header: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        info_of(engine_file(tmp_path / "a.engine", header))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"\x38" + b"\xff" * 100_000,  # a number that does not end
        b"\x3a\x00\x72\x0c\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x12\x00",  # a key of 2^62 bytes, were it a length
        b"\x3a\x00\x42\x04\x0a\x00\x12\x00",  # an opset that is text
    ],
    ids=["endless", "length", "opset"],
)
def test_bytes_that_only_look_like_an_onnx_file(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(data)
    with pytest.raises(WeightsError, match="a complete ONNX file"):
        read_onnx(tmp_path / "a.onnx")
