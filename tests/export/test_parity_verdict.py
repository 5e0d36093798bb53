"""The gate behind every export: what it measures, what it refuses and how it says so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from ultralytics.utils import LOGGER

from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.export import parity, parity_check, parity_verdict
from ultra_dsmoe.export.parity import ParityReport, Suppression, compare
from ultra_dsmoe.export.parity_check import ParityCheck
from ultra_dsmoe.export.parity_verdict import LIMITS, Export, ParityError, check_export, differences, runnable
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate


class Toy(nn.Module):
    """A net with one gate over image means, whose predictions (B, 6, A) have two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = ExpertGate(3, 6, 2)
        self.model = nn.ModuleList([nn.Identity()])
        self.stride = torch.tensor([32.0])
        self.scale = torch.ones(1, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        g = self.gate(x)
        boxes = x.flatten(2)[:, :1, :4] * 100 + torch.arange(4.0).view(1, 4, 1) * 40
        return torch.cat([boxes.expand(-1, 4, -1), g[:, :2, None].expand(-1, -1, 4)], 1) * self.scale


Planted = tuple[Toy, Callable[[Callable[..., Any]], None]]  # a net, and what plants a fault into its file


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Planted:
    """Return a net and a function that plants a fault into the runner of its 'file'."""
    net = Toy().eval()

    def plant(fault: Callable[..., Any]) -> None:
        true = parity.torch_runner(net)

        def runner(path: Path, gates: int, before_nms: bool = False) -> Callable[..., Any]:
            if before_nms:
                raise ConfigError("exported file", "one with suppression inside", "none")
            return lambda x: fault(*true(x))

        monkeypatch.setattr(parity, "exported_runner", runner)

    plant(lambda predictions, gates: (predictions, gates))
    return net, plant


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    LOGGER.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO):
        yield caplog
    LOGGER.removeHandler(caplog.handler)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "toy.onnx"
    path.write_bytes(b"-")
    return path


IMAGES = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(3))


def check(net: Toy, file: Path, **kwargs: Any) -> None:
    check_export(Export(net, str(file), **kwargs), [IMAGES])


def test_an_equal_file_passes_and_is_printed(toy: Planted, file: Path, said: Any) -> None:
    check(toy[0], file)
    assert "parity: 5 images: boxes within 0 px, scores within 0, same experts" in said.text


def shifted(row: slice, by: float, image: int) -> Callable[..., Any]:
    def fault(predictions: np.ndarray, gates: list[Any]) -> tuple[Any, ...]:
        predictions = predictions.copy()
        predictions[image, row] += by
        return predictions, gates

    return fault


def other_experts(predictions: np.ndarray, gates: list[Any]) -> tuple[Any, ...]:
    return predictions, [np.roll(gates[0], 1, 1)]


def nothing_found(predictions: np.ndarray, gates: list[Any]) -> tuple[Any, ...]:
    return np.full_like(predictions, np.nan), gates


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (shifted(slice(0, 4), 0.5, 0), r"got boxes moved by 0.5 px in image 0 \(limit 0.1\); it is not written"),
        (shifted(slice(4, 6), 0.25, 0), r"got scores moved by 0.25 in image 0 \(limit 0.001\); it is not written"),
        (other_experts, r"got other experts in image 0: net \d \d, file \d \d; it is not written \(dsmoe_parity=False"),
        (nothing_found, r"got boxes moved by inf px in image 0 .*; scores moved by inf in image 0"),
    ],
)
def test_a_planted_fault_is_refused(toy: Planted, file: Path, fault: Callable[..., Any], message: str) -> None:
    net, plant = toy
    plant(fault)
    with pytest.raises(ParityError, match=f"^toy.onnx: expected what the net gives, {message}") as caught:
        check(net, file)
    assert "\n" not in str(caught.value)


def test_the_worst_image_is_named(toy: Planted, file: Path) -> None:
    net, plant = toy
    calls = iter(range(5))
    plant(lambda p, g: shifted(slice(0, 4), 0.1 if next(calls) == 3 else 0.02, 0)(p, g))
    report = compare(net, file, IMAGES)
    assert (report.box_image, report.box_px) == (3, pytest.approx(0.1, rel=1e-3))


@pytest.mark.parametrize("batch", [1, 2, 4, 5, 7])
def test_every_image_is_compared_whatever_the_batch(toy: Planted, file: Path, batch: int) -> None:
    net, plant = toy
    sizes = []
    plant(lambda p, g: sizes.append(len(p)) or (p, g))
    one = compare(net, file, IMAGES)
    report = compare(net, file, IMAGES, batch)
    assert set(sizes[5:]) == {batch}
    assert report.routes == one.routes
    assert len(set(report.routes)) > 1, "all images alike would hide a mix-up"
    plant(lambda p, g: shifted(slice(0, 4), 0.1, (5 - 1) % batch)(p, g) if len(p) == batch else (p, g))
    assert compare(net, file, IMAGES, batch).box_px == pytest.approx(0.1, rel=1e-3)


def test_limits_go_with_precision(toy: Planted, file: Path) -> None:
    net, plant = toy
    plant(lambda p, g: other_experts(*shifted(slice(0, 4), 0.5, 0)(p, g)))
    check(net, file, bits=16)
    plant(shifted(slice(0, 4), 50.0, 0))
    with pytest.raises(ParityError, match="limit 5"):
        check(net, file, bits=16)
    plant(shifted(slice(0, 4), 10.0, 0))
    check(net, file, bits=8)
    assert differences(ParityReport(1, np.nan, np.nan, True, ()), LIMITS[32]), "not a number is no agreement"


@pytest.mark.parametrize(("after", "ok"), [((0.5, 0.3004), True), ((0.5, 0.302), False), ((0.5, np.nan), False)])
def test_map_is_compared_on_request(
    toy: Planted,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: Any,
    after: tuple[Any, ...],
    ok: bool,
) -> None:
    net, seen = toy[0], []

    def map_of(model: object, arguments: dict[str, Any]) -> tuple[Any, ...]:
        seen.append((model, arguments))
        return after if isinstance(model, Path) else (0.5, 0.3)

    monkeypatch.setattr(parity_verdict, "map_of", map_of)
    split = {"data": "x.yaml", "split": "test", "imgsz": 64}
    if ok:
        check_export(Export(net, str(file), 2), [IMAGES], split)
    else:
        with pytest.raises(
            ParityError, match=r"mAP50 0.5.* -> .*mAP50-95 0.3000 -> .* on the test split \(limit 0.001\)"
        ):
            check_export(Export(net, str(file), 2), [IMAGES], split)
    assert "parity: test split: mAP50 0.5000" in said.text
    assert seen == [(net, split), (file, {**split, "batch": 2})]


@pytest.mark.parametrize("after", [(0.495, 0.295), None])
def test_where_map_decides_one_line_says_so_and_what_else_was_seen(
    toy: Planted, file: Path, monkeypatch: pytest.MonkeyPatch, said: Any, after: tuple[float, float] | None
) -> None:
    net, plant = toy
    plant(shifted(slice(0, 4), 10.0, 0))
    monkeypatch.setattr(parity_verdict, "map_of", lambda model, arguments: after if model == file else (0.5, 0.3))
    check_export(Export(net, str(file), bits=8), [IMAGES, IMAGES], {"split": "val"} if after else None)
    (line,) = said.records
    decision = (
        "mAP50 0.5000 -> 0.4950, mAP50-95 0.3000 -> 0.2950 on the val split (limit 0.01)"
        if after
        else "which was not compared (dsmoe_parity=val does)"
    )
    assert line.levelno == (logging.INFO if after else logging.WARNING)
    assert line.getMessage().partition("parity: ")[2] == (
        f"at 8 bits mAP decides, {decision}; 10 images show no exchanged class or coordinate; that rounding "
        "moved boxes by up to 10 px and scores by up to 0 is not judged"
    )


def test_what_can_be_run(tmp_path: Path, file: Path, toy: Planted, said: Any) -> None:
    assert runnable(file) == file
    assert runnable(file.with_suffix(".engine")) == file, "the file that the engine was built from"
    folder = tmp_path / "toy_openvino_model"
    folder.mkdir()
    assert runnable(folder) is None
    (folder / "toy.xml").touch()
    assert runnable(folder) == folder
    check(toy[0], file.with_suffix(".engine"))
    assert "toy.engine itself is not run, the file it was built from is: toy.onnx" in said.text
    check(toy[0], tmp_path / "toy.pb")
    assert "not checked, toy.pb cannot be run here" in said.text


def test_suppressed_files_are_compared_after_suppression(toy: Planted, file: Path) -> None:
    """The host's suppression of the net's predictions is what a file with its own must give, in any order."""
    net, plant = toy
    nms = Suppression(conf=0.05, max_det=7)
    plant(lambda p, g: (parity._suppressed(p, nms)[:, ::-1], g))
    report = compare(net, file, IMAGES, nms=nms)
    assert (report.box_px, report.score) == (0, 0)
    found = parity._suppressed(parity.torch_runner(net)(IMAGES)[0], nms)
    assert found.shape == (5, 7, 6)
    assert (found[..., 4] > 0).any()
    plant(lambda p, g: (parity._suppressed(p, nms) * np.array([1, 1, 1, 1, 0.9, 1], np.float32), g))
    assert compare(net, file, IMAGES, nms=nms).score > 1e-3


# the plugin's side ----------------------------------------------------------------------------------------------------


class Model:
    def __init__(self, data: object = None) -> None:
        self.overrides = {"imgsz": 64, "data": data}


def test_images_come_from_the_data_set_or_are_drawn(tiny_boards: Path, tmp_path: Path) -> None:
    net = Toy()
    named = ParityCheck(Model(), net, True, {"data": str(tiny_boards)})
    trained_on = ParityCheck(Model(str(tiny_boards)), net, True, {})
    assert len(named.files) == len(trained_on.files) == 4
    assert ParityCheck(Model(str(tmp_path / "gone.yaml")), net, True, {}).files == []
    assert ParityCheck(Model(), net, True, {})._images((64, 96)).shape == (parity_check.IMAGES, 3, 64, 96)
    assert named._images((64, 96)).shape == (4, 3, 64, 96)


def test_errors_come_before_the_export(tiny_boards: Path, tmp_path: Path) -> None:
    net = Toy()
    with pytest.raises(DataError, match="data: expected a data YAML"):
        ParityCheck(Model(), net, True, {"data": str(tmp_path / "gone.yaml")})
    with pytest.raises(ConfigError, match=r"data: expected a data YAML for the mAP of dsmoe_parity=val, got none"):
        ParityCheck(Model(), net, "val", {})
    with pytest.raises(ConfigError, match=r"imgsz: expected a square .*, got \(64, 96\)"):
        ParityCheck(Model(str(tiny_boards)), net, "val", {"imgsz": [64, 96]})
    with pytest.raises(DataError, match="'test' split"):
        ParityCheck(Model(str(tiny_boards)), net, "test", {})
    ParityCheck(Model(), net, False, {"data": str(tmp_path / "gone.yaml")})


def test_what_the_gate_is_told(monkeypatch: pytest.MonkeyPatch, tiny_boards: Path) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(parity_verdict, "check_export", lambda *args: seen.append(args))
    call = {"batch": 2, "dynamic": True, "quantize": 16, "nms": True, "iou": 0.5}
    ParityCheck(Model(str(tiny_boards)), Toy(), "val", call).run("toy.onnx")
    ((export, images, split),) = seen
    assert (export.file, export.batch, export.bits) == ("toy.onnx", 2, 16), "suppression is traced for two images"
    assert export.nms == Suppression(iou=0.5)
    assert [tuple(i.shape[2:]) for i in images] == [(64, 64), (96, 64)], "dynamic: also another size and batch"
    assert split == {"data": str(tiny_boards), "split": "val", "imgsz": 64, "device": "cpu"}
    ParityCheck(Model(), Toy(), False, call).run("toy.onnx")
    assert len(seen) == 1, "switched off"
    ParityCheck(Model(), Toy(), True, {"dynamic": True}).run("toy.onnx")
    assert seen[1][0].batch == 2, "a batch that the file was not traced with"


# low scores and files with suppression inside -------------------------------------------------------------------------


def scaled(by: float, *classes: int) -> Callable[..., Any]:
    def fault(predictions: np.ndarray, gates: list[Any]) -> tuple[Any, ...]:
        predictions = predictions.copy()
        for number in classes:
            predictions[:, 4 + number] *= by
        return predictions, gates

    return fault


def test_the_limit_goes_with_the_highest_score_of_the_class(toy: Planted, file: Path) -> None:
    """A class that the net never finds has its own limit, whatever others score."""
    net, plant = toy
    number = int(parity.torch_runner(net)(IMAGES)[0][:, 4:].max((0, 2)).argmax())  # the gate may leave the other at 0
    net.scale[0, 4 + number] = 1e-4
    plant(scaled(0.9, number))
    with pytest.raises(
        ParityError, match=rf"got scores of class {number} moved by 0.1 of their highest \(limit 0.01\)"
    ):
        check(net, file)
    plant(scaled(1.001, number))
    check(net, file)
    net.scale[0, 4 + number] = 1e-8
    plant(scaled(0.5, number))
    check(net, file)  # noise


def test_a_file_that_shows_nothing_is_refused(toy: Planted, file: Path) -> None:
    net, plant = toy
    nms = Suppression(conf=1.0)
    plant(lambda p, g: (parity._suppressed(p, nms), g))
    with pytest.raises(ParityError, match=r"nothing to compare: no detection, and the predictions before suppression"):
        check(net, file, nms=nms)


def test_a_check_that_cannot_run_refuses_the_file(toy: Planted, file: Path) -> None:
    net, plant = toy

    def fail(p: np.ndarray, g: list[Any]) -> tuple[Any, ...]:
        raise RuntimeError("invalid graph\nat node 3")

    plant(fail)
    with pytest.raises(ParityError, match=r"^toy.onnx: expected a file that can be compared .*, got invalid graph$"):
        check(net, file)


def test_the_quantized_source_of_an_engine_is_compared(tmp_path: Path, file: Path) -> None:
    quantized = file.with_name("toy-int8.onnx")
    quantized.touch()
    assert runnable(file.with_suffix(".engine")) == quantized
    assert runnable(file.with_suffix(".mnn")) == quantized


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_images_have_the_nets_channels(channels: int) -> None:
    net = Toy()
    net.yaml = {"channels": channels}
    assert ParityCheck(Model(), net, True, {}).images[0].shape == (parity_check.IMAGES, channels, 64, 64)
