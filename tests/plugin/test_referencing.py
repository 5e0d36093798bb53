"""Which references a call has, in which order of precedence, and what is refused before anything is made."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from reference_fixtures import faulty_picture, golden_picture, reference_net
from second_stage_fixtures import save
from ultralytics import YOLO

from ultra_dsmoe.errors import DSMoEError
from ultra_dsmoe.evaluate.evaluation import Evaluation
from ultra_dsmoe.evaluate.reference_log import FILE

USUAL: dict[str, Any] = {"imgsz": 64, "device": "cpu", "verbose": False, "workers": 0, "plots": False}
PREDICT: dict[str, Any] = {"imgsz": 64, "conf": 1e-3, "device": "cpu", "verbose": False}
SaveNet = Callable[..., Path]
Pairs = Callable[..., Path]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / FILE).open() as f:
        return list(csv.DictReader(f))


def remembering(data: Path, path: Path, **spec: str) -> Path:
    """Write a checkpoint that knows the data set of its training."""
    net = reference_net()
    net.reference_info = {"spec": spec, "limit": None, "channels": 3, "form": "pack"}
    save(net, "detect", {0: "spur", 1: "short"}, path, size=64)
    content = torch.load(path, weights_only=False)
    content["train_args"]["data"] = str(data)
    torch.save(content, path)
    return path


# validation -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pt", "torchscript", "onnx"])
def test_validation_sees_pairs(kind: str, save_reference_net: SaveNet, pair_set: Pairs, tmp_path: Path) -> None:
    path, data = save_reference_net(), pair_set()
    file = path if kind == "pt" else Path(YOLO(path).export(format=kind, imgsz=64, device="cpu", verbose=False))
    seen: list[torch.Tensor] = []
    yolo = YOLO(file, task="detect")
    yolo.add_callback("on_val_batch_end", lambda v: seen.append(v.seen))
    metrics = yolo.val(data=str(data), project=str(tmp_path / "runs"), rect=False, **USUAL)
    found = rows(Path(metrics.save_dir))
    assert [Path(row["reference"]).name for row in found] == [f"val{i}.png" for i in range(4)]
    assert {row["state"] for row in found} == {"ok"}
    assert all(float(row["mismatch"]) < 0.3 for row in found)
    assert sum(seen) > 0


def test_file_and_net_have_the_same_map(save_reference_net: SaveNet, pair_set: Pairs, tmp_path: Path) -> None:
    path, data = save_reference_net(), pair_set()
    file = YOLO(path).export(format="onnx", imgsz=64, device="cpu", verbose=False, data=str(data), dsmoe_parity="val")
    assert Path(file).is_file(), "the gate validates both on the pairs of the set"


def test_evaluations_of_ours_see_pairs(save_reference_net: SaveNet, pair_set: Pairs) -> None:
    path, data = save_reference_net(), pair_set()
    stats = Evaluation({"model": path, "data": str(data)}).run()
    assert len(stats.files) == 4
    bare = pair_set("bare", reference=None)
    with pytest.raises(DSMoEError, match="dsmoe_reference: expected known-good pictures for"):
        Evaluation({"model": path, "data": str(bare)})
    with pytest.raises(DSMoEError, match=r"^dsmoe_reference: .* with a list of 1$"):
        Evaluation({"model": path, "data": str(data), "dsmoe_reference": [str(data.parent / "golden")]})
    named = Evaluation({"model": path, "data": str(bare), "dsmoe_reference": str(data.parent / "golden")})
    for ours, theirs in zip(named.run().conf, stats.conf, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_stock_command_in_a_fresh_process(
    save_reference_net: SaveNet, pair_set: Pairs, run_yolo: Callable[..., Any], tmp_path: Path
) -> None:
    path, data = save_reference_net(), pair_set()
    root = data.parent
    words = (f"model={path}", "imgsz=64", "device=cpu", f"project={tmp_path / 'runs'}")
    images = root / "images" / "val"
    run_yolo("predict", *words, f"source={images}", f"dsmoe_reference={root / 'golden'}", "name=folder")
    assert len(rows(tmp_path / "runs" / "folder")) == 4
    pattern = "{pattern: '^val(.*)$', file: '" + str(root / "golden" / "train{1}.png") + "'}"
    run_yolo("predict", *words, f"source={images}", f"dsmoe_reference={pattern}", "name=pattern")
    assert Path(rows(tmp_path / "runs" / "pattern")[1]["reference"]).name == "train1.png"
    run_yolo("val", *words, f"data={data}", "workers=0", "name=val")
    assert len(rows(tmp_path / "runs" / "val")) == 4
    failed = run_yolo("predict", *words, f"source={images}", "name=none", check=False)
    assert failed.returncode != 0
    assert "dsmoe_reference: expected known-good pictures for" in failed.stdout + failed.stderr
    assert "Traceback" not in failed.stdout + failed.stderr
    assert not (tmp_path / "runs" / "none").exists()


# order of precedence --------------------------------------------------------------------------------------------------


def test_key_wins_over_data_yaml_and_that_over_the_checkpoint(pair_set: Pairs, tmp_path: Path) -> None:
    remembered, other = pair_set("remembered"), pair_set("other")
    path = remembering(remembered, tmp_path / "net.pt")
    source = str(remembered.parent / "images" / "val" / "val0.png")

    def reference(**given: Any) -> str:
        (result,) = YOLO(path).predict(source, **PREDICT, **given)
        return str(Path(result.reference.file).relative_to(tmp_path))

    third = tmp_path / "third.png"
    cv2.imwrite(str(third), golden_picture())
    assert reference() == "remembered/golden/val0.png"
    assert reference(data=str(other)) == "other/golden/val0.png"
    assert reference(data=str(other), dsmoe_reference=str(third)) == "third.png"
    remembered.unlink()
    with pytest.raises(DSMoEError, match="dsmoe_reference: expected known-good pictures"):
        reference()
    own = remembering(remembered, tmp_path / "own.pt", folder=str(other.parent / "golden"))
    (result,) = YOLO(own).predict(source, **PREDICT)
    assert Path(result.reference.file).parent == other.parent / "golden", "where the training had them, if that is here"


def test_options_of_the_data_yaml_hold_beside_a_key(save_reference_net: SaveNet, pair_set: Pairs) -> None:
    data = pair_set(reference={"folder": "golden", "missing": "blank"})
    root = data.parent
    (root / "golden" / "val1.png").unlink()
    yolo = YOLO(save_reference_net())
    results = yolo.predict(root / "images" / "val", data=str(data), dsmoe_reference=root / "golden", **PREDICT)
    assert [r.reference.state for r in results] == ["ok", "missing", "ok", "ok"]


def test_stock_detector_ignores_the_data_sets_references(
    save_detector: SaveNet, pair_set: Pairs, tmp_path: Path
) -> None:
    path = save_detector({0: "spur", 1: "short"})
    metrics = YOLO(path).val(data=str(pair_set()), project=str(tmp_path / "runs"), **USUAL)
    assert not (Path(metrics.save_dir) / FILE).exists()


def test_benchmark_has_references(
    save_reference_net: SaveNet, pair_set: Pairs, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    table = YOLO(save_reference_net()).benchmark(
        data=str(pair_set()), imgsz=64, format="onnx", device="cpu", verbose=False
    )
    assert "❌" not in str(table)


def test_data_yaml_with_a_wrong_section(save_reference_net: SaveNet, pair_set: Pairs) -> None:
    data = pair_set()
    content = yaml.safe_load(data.read_text())
    data.write_text(yaml.safe_dump({**content, "reference": {"folder": "golden", "missing": "perhaps"}}))
    with pytest.raises(DSMoEError, match="missing"):
        YOLO(save_reference_net()).predict(faulty_picture(), data=str(data), **PREDICT)
