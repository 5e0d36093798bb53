"""Small nets that compare with known-good pictures, and sets of such pictures, made in no time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from export_fixtures import blocks, fire
from second_stage_fixtures import DETECTOR, save

from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.model.reference_row import with_reference

SIZE = 64
PAIR_NAMES = {0: "spur", 1: "short"}
HEIGHT, WIDTH = 60, 80


def golden_picture(channels: int = 3, seed: int = 0) -> np.ndarray:
    """Return the picture of a good part, (H, W, C)."""
    picture = blocks(np.random.default_rng(seed), HEIGHT, WIDTH)
    return picture if channels == 3 else picture[..., :channels]


def faulty_picture(channels: int = 3, seed: int = 0) -> np.ndarray:
    """Return the same part with a fault."""
    picture = golden_picture(channels, seed).copy()
    picture[20:30, 30:42] = 255 - picture[20:30, 30:42]
    return picture


def reference_net(channels: int = 3, form: str = "pack") -> Any:
    """Return a fresh net that finds different objects in anything, and others with another reference."""
    content = with_reference({**DETECTOR, "nc": len(PAIR_NAMES)}, form=form, channels=channels)
    net = DSMoEModel(content, nc=len(PAIR_NAMES), verbose=False)
    fire(net)
    return net


@pytest.fixture
def save_reference_net(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the checkpoint of a net with the row."""

    def make(
        name: str = "ref.pt", channels: int = 3, limit: float | None = None, form: str = "pack", **options: str
    ) -> Path:
        net = reference_net(channels, form)
        net.reference_info = {"spec": options, "limit": limit, "channels": channels, "form": form}
        return save(net, "detect", PAIR_NAMES, tmp_path / name, size=SIZE)

    return make


@pytest.fixture
def pair_set(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a data set of four boards, each with its good one, and returns its YAML."""

    def make(name: str = "pairs", reference: Any = "golden", count: int = 4, channels: int = 3) -> Path:
        root = tmp_path / name
        for folder in ("images/train", "images/val", "labels/train", "labels/val", "golden"):
            (root / folder).mkdir(parents=True)
        for i in range(count):
            for split in ("train", "val"):
                cv2.imwrite(str(root / "images" / split / f"{split}{i}.png"), faulty_picture(channels, i))
                (root / "labels" / split / f"{split}{i}.txt").write_text("0 0.45 0.42 0.15 0.17\n")
                cv2.imwrite(str(root / "golden" / f"{split}{i}.png"), golden_picture(channels, i))
        content: dict[str, Any] = {"path": str(root), "train": "images/train", "val": "images/val", "names": PAIR_NAMES}
        if channels != 3:
            content["channels"] = channels
        content |= {"reference": reference} if reference is not None else {}
        file = root / "data.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return make
