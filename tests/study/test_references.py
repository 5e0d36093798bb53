"""Studies on sets with known-good references: what a cell is validated with, and what changes a set's hash."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from reference_sets import negative_set
from ultralytics import YOLO
from ultralytics.data.utils import check_det_dataset

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.study import cell
from ultra_dsmoe.study.data import data_digest


@pytest.fixture
def pairs(tiny_boards: Path, tmp_path: Path) -> Path:
    """Return the data YAML of a set whose references are its images' negatives."""
    return negative_set(tiny_boards, tmp_path / "set")


def settings(data: Path, **more: Any) -> dict[str, Any]:
    """Return those of a cell."""
    return {"data": str(data), "imgsz": 64, "batch": 4, "workers": 0, "device": "cpu", **more}


@pytest.mark.parametrize(
    ("key", "differs"), [({}, True), ({"dsmoe_reference": "same"}, False)], ids=["as the set says", "key"]
)
def test_a_net_is_validated_with_the_references_it_was_trained_with(
    key: dict[str, str], differs: bool, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of the cell wins over the set; with the images as references the difference is nothing."""
    seen: list[np.ndarray] = []

    class Looking(cell.Collector):  # type: ignore[name-defined]
        """Keeps what the net is shown."""

        def preprocess(self, batch: Any) -> Any:
            batch = super().preprocess(batch)
            seen.append(batch["img"].numpy())
            return batch

    monkeypatch.setattr(cell, "Collector", Looking)
    shutil.copytree(pairs.parent / "images", pairs.parent / "same")
    YOLO("yolov8n-ref.yaml").save(tmp_path / "best.pt")
    absolute = {name: str(pairs.parent / folder) for name, folder in key.items()}
    cell.validate(tmp_path / "best.pt", settings(pairs, **absolute))
    image, reference = np.split(np.concatenate(seen), 2, axis=1)
    assert bool((image != reference).any()) is differs


def test_a_net_without_the_row_sees_images_alone(pairs: Path, tmp_path: Path) -> None:
    """Where the cell was trained so; references it could not use are refused."""
    YOLO("yolov8n.yaml").save(tmp_path / "best.pt")
    stats, _ = cell.validate(tmp_path / "best.pt", settings(pairs, dsmoe_reference="none"))
    assert len(stats.files) == 4
    with pytest.raises(ConfigError, match="a detector trained with references"):
        cell.validate(tmp_path / "best.pt", settings(pairs, dsmoe_reference=str(pairs.parent / "golden")))


def test_the_hash_knows_whose_reference_is_whose(pairs: Path) -> None:
    """Two rows exchanged are another set, and so is another section; the same one is not."""
    root, content = pairs.parent, yaml.safe_load(pairs.read_text())
    images = sorted((root / "images").rglob("*.jpg"))
    golden = [f"golden/{p.relative_to(root / 'images').with_suffix('.png')}" for p in images]
    found = []
    for order in (golden, golden, [golden[1], golden[0], *golden[2:]]):
        rows = [f"{p.relative_to(root)},{g}" for p, g in zip(images, order, strict=True)]
        (root / "pairs.csv").write_text("\n".join(["image,reference", *rows]))
        pairs.write_text(yaml.safe_dump({**content, "reference": "pairs.csv"}))
        found.append(data_digest(check_det_dataset(str(pairs))))
    pairs.write_text(yaml.safe_dump({k: v for k, v in content.items() if k != "reference"}))
    found.append(data_digest(check_det_dataset(str(pairs))))
    assert found[0] == found[1]
    assert len(set(found)) == 3
