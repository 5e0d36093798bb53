"""Exported files of nets that compare: input, metadata, parity on pairs, calibration on pairs, lint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from reference_fixtures import SIZE, faulty_picture, golden_picture, reference_net
from ultralytics import YOLO
from ultralytics.engine.exporter import Exporter

from ultra_dsmoe import commands
from ultra_dsmoe.data.reference.in_force import in_force
from ultra_dsmoe.data.reference.references import References
from ultra_dsmoe.data.reference.spec import ReferenceSpec
from ultra_dsmoe.edge.lint import lint
from ultra_dsmoe.errors import ConfigError, DataError, DSMoEError
from ultra_dsmoe.evaluate.reference_choice import NoReferences
from ultra_dsmoe.export import quantize as quantizing
from ultra_dsmoe.export.images import drawn_images, drawn_pairs, load_images, pictures
from ultra_dsmoe.export.parity_check import IMAGES, ParityCheck
from ultra_dsmoe.export.runners import exported_runner
from ultra_dsmoe.runtime.detections import network_input
from ultra_dsmoe.runtime.file_metadata import read_metadata
from ultra_dsmoe.runtime.model_file import model_info
from ultra_dsmoe.runtime.pairing import stacked
from ultra_dsmoe.runtime.reference_entry import KEY

QUIET: dict[str, Any] = {"imgsz": SIZE, "device": "cpu", "verbose": False}
SaveNet = Callable[..., Path]
Pairs = Callable[..., Path]


@pytest.fixture
def references(pair_set: Pairs) -> References:
    return References(ReferenceSpec(folder=pair_set().parent / "golden"), 3)


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "openvino"])
def test_file_says_how_its_input_is_made(kind: str, save_reference_net: SaveNet) -> None:
    path = save_reference_net(limit=0.25, missing="blank", align="shift")
    file = Path(YOLO(path).export(format=kind, **QUIET))
    metadata = read_metadata(file)
    assert int(metadata["channels"]) == 6
    assert json.loads(metadata[KEY]) == {
        "channels": 3,
        "order": "image RGB, reference RGB",
        "missing": "blank",
        "align": "shift",
        "limit": 0.25,
        "form": "pack",
    }
    run = exported_runner(file)
    pair = network_input([stacked(faulty_picture(), golden_picture())], (SIZE, SIZE))
    changed = network_input([stacked(faulty_picture(), golden_picture(seed=4))], (SIZE, SIZE))
    assert not np.allclose(run(torch.from_numpy(pair))[0], run(torch.from_numpy(changed))[0]), "it compares"


def test_onnx_file_passes_lint_and_has_one_input(save_reference_net: SaveNet) -> None:
    for form in ("pack", "conv", "local"):
        file = YOLO(save_reference_net(f"{form}.pt", form=form)).export(format="onnx", **QUIET)
        model = onnx.load(file)
        assert [[d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input] == [[1, 6, SIZE, SIZE]]
        assert not [str(f) for f in lint(model) if f.is_fault]
        info = model_info(Path(file), read_metadata(Path(file)))
        assert (info.channels, info.reference.channels, info.reference.form) == (6, 3, form)


def test_gray_pairs_and_dynamic_sizes(save_reference_net: SaveNet) -> None:
    file = YOLO(save_reference_net(channels=1)).export(format="onnx", dynamic=True, **QUIET)
    assert json.loads(read_metadata(Path(file))[KEY])["order"] == "image, reference"
    (result,) = YOLO(file, task="detect").predict(
        faulty_picture(1), dsmoe_reference=golden_picture(1), conf=1e-3, **{**QUIET, "imgsz": 96}
    )
    assert len(result) > 0


def test_drawn_pairs_differ_and_one_is_blank() -> None:
    pairs = drawn_pairs(4, (32, 48), channels=3)
    assert pairs.shape == (4, 6, 32, 48)
    torch.testing.assert_close(pairs[:, :3], drawn_images(4, (32, 48)))
    assert (pairs[:3, :3] - pairs[:3, 3:]).abs().mean((1, 2, 3)).min() > 0.01
    assert pairs[-1, 3:].abs().max() == 0


class Model:
    def __init__(self) -> None:
        self.overrides: dict[str, Any] = {"imgsz": SIZE}


def test_gate_compares_on_the_sets_pairs_where_they_are_at_hand(pair_set: Pairs) -> None:
    data, net = pair_set(), reference_net()
    call = {"data": str(data)}
    assert ParityCheck(Model(), net, True, {}).images[0].shape == (IMAGES, 6, SIZE, SIZE)
    drawn = ParityCheck(Model(), net, True, call).images[0]
    torch.testing.assert_close(drawn, drawn_pairs(IMAGES, (SIZE, SIZE)))
    with in_force(References(ReferenceSpec(folder=data.parent / "golden"), 3)):
        (images,) = ParityCheck(Model(), net, True, call).images
    expected = network_input([stacked(faulty_picture(seed=i), golden_picture(seed=i)) for i in range(4)], (SIZE, SIZE))
    torch.testing.assert_close(images, torch.from_numpy(expected))


def test_files_are_read_with_their_references(references: References, pair_set: Pairs) -> None:
    files = sorted((references.spec.folder.parent / "images" / "val").iterdir())
    with in_force(references):
        (pair,) = pictures(files[:1], 6)
        assert np.array_equal(pair, stacked(faulty_picture(), golden_picture()))
        assert load_images(files, SIZE, 6).shape == (4, 6, SIZE, SIZE)
        assert load_images(files, SIZE, 3).shape == (4, 3, SIZE, SIZE), "a net without the row takes the image alone"
    with in_force(NoReferences(3)):
        (pair,) = pictures(files[:1], 6)
    assert not pair[..., 3:].any()


def test_a_picture_that_cannot_be_read_is_left_out(references: References, pair_set: Pairs) -> None:
    first, *others = sorted((references.spec.folder.parent / "images" / "val").iterdir())
    first.write_bytes(b"no picture")
    pair = stacked(faulty_picture(), golden_picture())
    with in_force(references):
        assert load_images([first, *others], SIZE, 6).shape == (3, 6, SIZE, SIZE)
        (alone,) = pictures([pair], 6)
        assert np.array_equal(alone, pair), "an array is a pair already"
        with pytest.raises(DataError, match="images: expected at least one picture of 3 channels"):
            load_images([first], SIZE, 6)


def test_int8_is_calibrated_on_pairs(
    save_reference_net: SaveNet, references: References, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = Path(YOLO(save_reference_net()).export(format="onnx", **QUIET))
    seen: list[np.ndarray] = []
    make = quantizing.network_input
    monkeypatch.setattr(quantizing, "network_input", lambda *a, **k: seen.append(make(*a, **k)) or seen[-1])
    data = references.spec.folder.parent / "data.yaml"
    assert commands.run(["edge", "quantize", str(file), f"data={data}", "target=cpu"]) == 0
    expected = network_input([stacked(faulty_picture(), golden_picture())], (SIZE, SIZE))
    np.testing.assert_array_equal(seen[0], expected)
    int8 = file.with_name("ref-int8-cpu.onnx")
    assert KEY in read_metadata(int8), "the quantized file knows too"
    (result,) = YOLO(int8, task="detect").predict(faulty_picture(), dsmoe_reference=golden_picture(), **QUIET)
    assert result.reference.state == "ok"
    with pytest.raises(ConfigError, match=r"dsmoe_reference: expected known-good pictures for ref\.onnx"):
        quantizing.quantize(file, [str(f) for f in (data.parent / "images" / "val").iterdir()], tmp_path / "x.onnx")


def test_hosts_int8_is_calibrated_on_pairs(references: References) -> None:
    data = references.spec.folder.parent / "data.yaml"
    exporter = Exporter(overrides={"data": str(data), "batch": 2, "imgsz": SIZE})
    exporter.imgsz, exporter.model = [SIZE, SIZE], SimpleNamespace(task="detect")
    with in_force(references):
        batch = next(iter(exporter.get_int8_calibration_dataloader()))["img"]
    assert batch.shape == (2, 6, SIZE, SIZE)
    assert batch.dtype == torch.uint8
    assert (batch[:, :3] != batch[:, 3:]).any()


def test_engines_path_leaves_a_file_with_the_entry(save_reference_net: SaveNet, pair_set: Pairs) -> None:
    path = save_reference_net()
    with pytest.raises(DSMoEError, match="no engine was made"):
        YOLO(path).export(format="engine", data=str(pair_set()), int8=True, imgsz=SIZE, verbose=False)
    assert KEY in read_metadata(path.with_suffix(".onnx"))
    assert KEY in read_metadata(path.with_name("ref-int8.onnx"))


def test_damaged_entry_is_one_line(save_reference_net: SaveNet, tmp_path: Path) -> None:
    file = YOLO(save_reference_net()).export(format="onnx", **QUIET)
    model = onnx.load(file)
    for text in (
        "{",
        '{"channels": 3}',
        '{"channels": 0, "missing": "error", "align": "none", "limit": 1, "form": ""}',
    ):
        table = {p.key: p.value for p in model.metadata_props} | {KEY: text}
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, table)
        onnx.save(model, tmp_path / "damaged.onnx")
        with pytest.raises(DSMoEError, match=r"dsmoe_reference of damaged.onnx: expected what this package's export"):
            YOLO(tmp_path / "damaged.onnx", task="detect").predict(
                faulty_picture(), dsmoe_reference=golden_picture(), **QUIET
            )
