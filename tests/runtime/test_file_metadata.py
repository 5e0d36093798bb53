"""Metadata of exported files, by format; what is no such file has none."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from ultra_dsmoe.runtime.file_metadata import read_metadata
from ultra_dsmoe.runtime.model_file import write_engine

TABLE = {"task": "classify", "dsmoe_pair": "{}"}


def onnx_file(folder: Path) -> Path:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])  # fmt: skip
    model = helper.make_model(graph)
    helper.set_model_props(model, TABLE)
    onnx.save(model, folder / "a.onnx")
    return folder / "a.onnx"


def engine_file(folder: Path) -> Path:
    write_engine(folder / "a.engine", TABLE, b"bytes")
    return folder / "a.engine"


def openvino_folder(folder: Path) -> Path:
    made = folder / "a_openvino_model"
    made.mkdir()
    (made / "metadata.yaml").write_text("task: classify\ndsmoe_pair: '{}'\n")
    return made


def torchscript_file(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.torchscript", "w") as archive:
        archive.writestr("a/extra/config.txt", json.dumps(TABLE))
    return folder / "a.torchscript"


@pytest.mark.parametrize("make", [onnx_file, engine_file, openvino_folder, torchscript_file])
def test_every_format(make: object, tmp_path: Path) -> None:
    found = read_metadata(make(tmp_path))  # type: ignore[operator]
    assert {key: found[key] for key in TABLE} == TABLE


@pytest.mark.parametrize("name", ["a.onnx", "a.engine", "a.torchscript", "a.pt", "a_openvino_model", "none.onnx"])
def test_what_is_no_such_file_has_none(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("_model"):
        path.mkdir()
    elif not name.startswith("none"):
        path.write_bytes(b"something else")
    assert read_metadata(path) == {}
