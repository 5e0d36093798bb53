"""A small set in YOLO layout, Pascal VOC files, and a folder where the host keeps its data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ultra_dsmoe.data import packaged


@pytest.fixture
def sets_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the host's data sets live in an empty folder."""
    import ultralytics

    folder = tmp_path / "sets"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(ultralytics.settings, "datasets_dir", str(folder))
    return folder


BOX = (10, 20, 30, 60)


@pytest.fixture
def write_voc() -> Callable[..., None]:
    """Return a function that writes one image and its Pascal VOC file."""
    import cv2

    def write(
        folder: Path, stem: str, kind: str = "spur", box: tuple[Any, ...] = BOX, size: tuple[Any, ...] = (100, 200)
    ) -> None:
        """Write one image and its XML in the folders of the published board set."""
        for name in ("images", "Annotations"):
            (folder / name / "Spur").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "images" / "Spur" / f"{stem}.jpg"), np.zeros((size[1], size[0]), np.uint8))
        corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        text = f"""<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>
            <object><name>{kind}</name><bndbox>{corners}</bndbox></object></annotation>"""
        (folder / "Annotations" / "Spur" / f"{stem}.xml").write_text(text)

    return write


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a valid set of a packaged YAML's classes: three images, one box each."""
    import cv2

    def make(name: str = "deeppcb", folder: str = "made", names: list[str] | None = None) -> Path:
        root = tmp_path / folder
        for split, count in (("train", 2), ("val", 1)):
            (root / "images" / split).mkdir(parents=True)
            (root / "labels" / split).mkdir(parents=True)
            for i in range(count):
                cv2.imwrite(str(root / "images" / split / f"{i}.png"), np.full((8, 8), 40 * i, np.uint8))
                (root / "labels" / split / f"{i}.txt").write_text(f"{i} 0.5 0.5 0.25 0.25\n")
        names = packaged.class_names(packaged.load(name)) if names is None else names
        (root / "data.yaml").write_text(yaml.safe_dump({"train": "images/train", "val": "images/val", "names": names}))
        return root

    return make
