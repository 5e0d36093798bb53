"""The gate behind every export: what it measures, what it refuses and how it says so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, astuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from parity_checks import IMAGES, shifted
from torch import nn
from ultralytics.utils import LOGGER

from ultra_dsmoe.export import parity, parity_verdict
from ultra_dsmoe.export.parity import ParityReport, Suppression
from ultra_dsmoe.export.parity_verdict import LIMITS, Export, ParityError, check_export, differences, map_of, runnable


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    LOGGER.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO):
        yield caplog
    LOGGER.removeHandler(caplog.handler)


def check(net: nn.Module, file: Path, **kwargs: Any) -> None:
    check_export(Export(net, str(file), **kwargs), [IMAGES])


def test_an_equal_file_passes_and_is_printed(toy: Any, file: Path, said: Any) -> None:
    check(toy[0], file)
    assert "parity: 5 images: boxes within 0 px, scores within 0, same experts" in said.text


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
def test_a_planted_fault_is_refused(toy: Any, file: Path, fault: Callable[..., Any], message: str) -> None:
    net, plant = toy
    plant(fault)
    with pytest.raises(ParityError, match=f"^toy.onnx: expected what the net gives, {message}") as caught:
        check(net, file)
    assert "\n" not in str(caught.value)


def test_limits_go_with_precision(toy: Any, file: Path) -> None:
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
    toy: Any, file: Path, monkeypatch: pytest.MonkeyPatch, said: Any, after: tuple[Any, ...], ok: bool
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
    toy: Any, file: Path, monkeypatch: pytest.MonkeyPatch, said: Any, after: tuple[float, float] | None
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


def test_what_can_be_run(tmp_path: Path, file: Path, toy: Any, said: Any) -> None:
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


# low scores and files with suppression inside -------------------------------------------------------------------------


def scaled(by: float, *classes: int) -> Callable[..., Any]:
    def fault(predictions: np.ndarray, gates: list[Any]) -> tuple[Any, ...]:
        predictions = predictions.copy()
        for number in classes:
            predictions[:, 4 + number] *= by
        return predictions, gates

    return fault


def test_the_limit_goes_with_the_highest_score_of_the_class(toy: Any, file: Path) -> None:
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


def test_a_file_that_shows_nothing_is_refused(toy: Any, file: Path) -> None:
    net, plant = toy
    nms = Suppression(conf=1.0)
    plant(lambda p, g: (parity._suppressed(p, nms), g))
    with pytest.raises(ParityError, match=r"nothing to compare: no detection, and the predictions before suppression"):
        check(net, file, nms=nms)


def test_a_check_that_cannot_run_refuses_the_file(toy: Any, file: Path) -> None:
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


# the limits -----------------------------------------------------------------------------------------------------------


def test_limits_are_those_that_the_docs_name() -> None:
    assert astuple(LIMITS[32]) == (0.1, 1e-3, 1e-2, 1e-6, True, 1e-3)
    assert astuple(LIMITS[16]) == (5.0, 2e-2, 0.25, 1e-3, False, 5e-3)
    assert astuple(LIMITS[8]) == (None, None, None, 1e-6, False, 1e-2)
    with pytest.raises(FrozenInstanceError):
        LIMITS[32].score = 1.0  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Export(None, "x").bits = 8  # type: ignore[misc]


def test_what_moved_by_hand() -> None:
    at_limit = ParityReport(3, 0.1, 1e-3, True, (), share=1e-2)
    assert differences(at_limit, LIMITS[32]) == []
    other = ((0, 1),), ((0, 2),)
    off = ParityReport(3, 0.2, 0.9, False, (), 1, 2, (2, *other), 0.5, 4, ("class 0 is another",), False, False)
    boxes, scores = "boxes moved by 0.2 px in image 1 (limit 0.1)", "scores moved by 0.9 in image 2 (limit 0.001)"
    always = ["class 0 is another", "predictions that are no numbers"]
    shown = "nothing to compare: no detection, and the predictions before suppression are not shown"
    assert differences(off, LIMITS[32]) == [
        boxes,
        scores,
        *always,
        shown,
        "other experts in image 2: net 0 1, file 0 2",
    ]
    assert differences(off, LIMITS[16]) == ["scores moved by 0.9 in image 2 (limit 0.02)", *always, shown]
    assert differences(off, LIMITS[8]) == [*always, shown]
    low = ParityReport(3, 0.0, 1e-4, True, (), share=0.5, share_class=4)
    assert differences(low, LIMITS[32]) == ["scores of class 4 moved by 0.5 of their highest (limit 0.01)"]


def test_no_file_that_is_not_there_and_no_other_kind_is_run(tmp_path: Path) -> None:
    (tmp_path / "toy.pb").touch()
    assert runnable(tmp_path / "toy.pb") is None
    assert runnable(tmp_path / "toy.onnx") is None


def test_map_is_that_of_squares_on_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        """As the host's, whose validation fuses the net and notes arguments on itself."""

        def __init__(self, path: object = None, task: str | None = None) -> None:
            self.path, self.task, self.touched = path, task, False

        def val(self, **arguments: object) -> SimpleNamespace:
            self.touched = True
            seen.append((self.path, self.task, arguments))
            return SimpleNamespace(box=SimpleNamespace(map50=np.float64(0.5), map=np.float64(0.25)))

    seen: list[Any] = []
    monkeypatch.setattr("ultralytics.YOLO", Model)
    model = Model()
    assert map_of(model, {"data": "x", "imgsz": 64}) == (0.5, 0.25)
    assert not model.touched
    assert map_of(tmp_path / "toy.onnx", {"data": "x", "imgsz": 64}) == (0.5, 0.25)
    assert [entry[:2] for entry in seen] == [(None, None), (tmp_path / "toy.onnx", "detect")]
    for _, _, arguments in seen:
        assert not Path(str(arguments.pop("project"))).exists()
        assert arguments == {"data": "x", "imgsz": 64, "rect": False, "plots": False, "workers": 0}
