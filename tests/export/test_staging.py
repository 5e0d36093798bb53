"""A refused, unchecked or interrupted export leaves what was there; a good one takes its place whole."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ultralytics.utils import LOGGER

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.export import staging
from ultra_dsmoe.export.staging import staged


class Model:
    """Keeps callbacks as the host's ``YOLO`` does, and exports as its exporter does."""

    def __init__(self, file: Path) -> None:
        self.callbacks: dict[str, list[Any]] = {"on_export_start": []}
        self.file = file

    def add_callback(self, event: str, function: Any) -> None:
        self.callbacks[event].append(function)

    def export(self, suffix: str = ".onnx", content: str = "new") -> str:
        exporter = SimpleNamespace(file=self.file)
        for function in self.callbacks["on_export_start"]:
            function(exporter)
        if suffix.endswith("_model/"):
            place = str(exporter.file).replace(".pt", suffix)
            Path(place).mkdir()
            (Path(place) / "a.xml").write_text(content)
        else:
            place = str(exporter.file.with_suffix(suffix))
            Path(place).write_text(content)
        LOGGER.info(f"saved as {place}, {Path(place).resolve()}")
        return place


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model(tmp_path / "best.pt")


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("before", [False, True])
def test_a_good_file_takes_its_place(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture, before: bool
) -> None:
    if before:
        (tmp_path / "best.onnx").write_text("old")
    with staged(model) as stage, caplog.at_level(logging.INFO):
        place = model.export()
        assert (tmp_path / "best.onnx").exists() is before
        stage.publish()
        assert stage.final(place) == str(tmp_path / "best.onnx")
    assert names(tmp_path) == ["best.onnx"]
    assert (tmp_path / "best.onnx").read_text() == "new"
    assert model.callbacks == {"on_export_start": []}
    assert staging.PREFIX not in caplog.text
    assert caplog.text.count(str(tmp_path / "best.onnx")) == 2, "the log leads to a place that is gone"


@pytest.mark.parametrize("before", ["none", "folder", "file"])
def test_a_good_folder_takes_its_place(model: Model, tmp_path: Path, before: str) -> None:
    old = tmp_path / "best_openvino_model"
    if before == "folder":
        old.mkdir()
        (old / "stale.bin").touch()
    elif before == "file":
        old.touch()
    with staged(model) as stage:
        place = model.export("_openvino_model/")
        stage.publish()
    assert stage.final(place) == f"{old}/"
    assert names(tmp_path) == ["best_openvino_model", "best_openvino_model/a.xml"]


def failing(model: Model, error: BaseException, suffix: str = ".onnx") -> None:
    with staged(model):
        model.export(suffix, "bad")
        raise error


@pytest.mark.parametrize("suffix", [".onnx", "_openvino_model/"])
def test_nothing_changes_where_something_fails(model: Model, tmp_path: Path, suffix: str) -> None:
    with staged(model) as stage:
        model.export(suffix, "good")
        stage.publish()
    found = names(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        failing(model, KeyboardInterrupt(), suffix)
    assert names(tmp_path) == found
    assert [p.read_text() for p in tmp_path.rglob("*") if p.is_file()] == ["good"]
    assert model.callbacks == {"on_export_start": []}


def test_without_an_export_nothing_is_published(model: Model, tmp_path: Path) -> None:
    with staged(model) as stage:
        stage.publish()
        assert stage.final("best.onnx") == "best.onnx"
    assert names(tmp_path) == []


def test_two_files_of_one_export_arrive_together(model: Model, tmp_path: Path) -> None:
    with staged(model) as stage:
        model.export(".onnx")
        model.export(".engine")
        assert len(list(tmp_path.iterdir())) == 1, "one folder"
        stage.publish()
    assert names(tmp_path) == ["best.engine", "best.onnx"]


def test_a_failed_swap_of_folders_is_taken_back(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with staged(model) as stage:
        model.export("_openvino_model/", "good")
        stage.publish()
    true, calls = staging.os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.EIO, "input/output error")
        true(source, target)

    def publish() -> None:
        with staged(model) as stage:
            model.export("_openvino_model/", "bad")
            monkeypatch.setattr(staging.os, "replace", replace)
            stage.publish()

    with pytest.raises(ConfigError, match=r"export: expected a folder with room to write to, got .*input/output error"):
        publish()
    assert (tmp_path / "best_openvino_model" / "a.xml").read_text() == "good"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_one_line(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^export: expected a folder with room to write to, got .*No space left"):
        failing(model, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(RuntimeError, match="another"):
        failing(model, RuntimeError("another error stays what it is"))
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    with pytest.raises(RuntimeError, match="a MiB"):
        failing(model, RuntimeError("a MiB is left"))
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: SimpleNamespace(free=(1 << 20) - 1))
    with pytest.raises(ConfigError, match=r"got .*: the disk is full"):
        failing(model, RuntimeError("PytorchStreamWriter failed"))
    assert names(tmp_path) == []
