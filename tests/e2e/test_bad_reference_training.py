"""Wrong references: every kind ends a training in one line, before anything is trained, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from reference_sets import FOLDER, negative_set

Refused = Callable[..., str]
Spoil = Callable[[Path], Any]  # the set's folder -> what ``reference:`` says


def without_one(root: Path) -> str:
    """Take one picture away."""
    next((root / FOLDER / "val").glob("*.png")).unlink()
    return FOLDER


def two_for_one(root: Path) -> str:
    """Write a second picture for an image."""
    (picture,) = sorted((root / FOLDER / "train").glob("*.png"))[:1]
    picture.with_suffix(".jpg").write_bytes(picture.read_bytes())
    return FOLDER


def of_another_size(root: Path) -> str:
    """Make pictures of another product of them."""
    for picture in (root / FOLDER).rglob("*.png"):
        cv2.imwrite(str(picture), np.zeros((40, 90, 3), np.uint8))
    return FOLDER


def damaged(root: Path) -> str:
    """Leave no picture in the files."""
    for picture in (root / FOLDER).rglob("*.png"):
        picture.write_bytes(b"no picture")
    return FOLDER


def table(text: str) -> Spoil:
    """Return a maker of a CSV."""

    def make(root: Path) -> str:
        (root / "pairs.csv").write_text(text)
        return "pairs.csv"

    return make


KINDS: dict[str, tuple[Spoil, str]] = {
    "no such folder": (lambda root: "nowhere", "no such folder"),
    "an empty folder": (lambda root: (root / "empty").mkdir() or "empty", "none in it"),
    "no such picture": (lambda root: "golden.png", "golden.png"),
    "one missing": (without_one, "1 of 12 missing"),
    "two for one image": (two_for_one, "one reference for"),
    "another product's size": (of_another_size, "product size"),
    "damaged": (damaged, "a picture that can be read"),
    "a pattern without a group": (lambda root: {"pattern": "^board", "file": "golden/{1}.png"}, "at least one group"),
    "a pattern without a file": (lambda root: {"pattern": "^(board)"}, "a file beside the pattern"),
    "a broken pattern": (lambda root: {"pattern": "^(", "file": "{1}.png"}, "a regular expression"),
    "two places": (lambda root: {"folder": FOLDER, "csv": "pairs.csv"}, "one place"),
    "an unknown key": (lambda root: {"folders": FOLDER}, "folder"),
    "an unknown way to align": (lambda root: {"folder": FOLDER, "align": "rotate"}, "none, shift, affine"),
    "a negative strength": (lambda root: {"folder": FOLDER, "noise": -1}, "reference.noise"),
    "a CSV of other columns": (table("a,b\n1,2\n"), "columns image and reference"),
    "a CSV of unknown images": (table("image,reference\nnowhere.jpg,golden/x.png\n"), "a CSV of images that are there"),
    "a number": (lambda root: 5, "a folder"),
}


@pytest.fixture
def pairs(tiny_boards: Path, files: Path) -> Path:
    return negative_set(tiny_boards, files / "set")


@pytest.mark.parametrize("kind", KINDS)
def test_training(kind: str, pairs: Path, refused: Refused, command: Callable[..., list[str]]) -> None:
    make, part = KINDS[kind]
    content = {**yaml.safe_load(pairs.read_text()), "reference": make(pairs.parent)}
    pairs.write_text(yaml.safe_dump(content))
    line = refused(*command("train", data=pairs))
    assert part in line
    assert line.startswith(("reference", str(pairs.parent))), line


@pytest.mark.parametrize("net", ["yolov8n.yaml", "yolov8n-seg.yaml", "yolov8n-cls.yaml"])
def test_the_key(net: str, pairs: Path, refused: Refused, command: Callable[..., list[str]]) -> None:
    line = refused(*command("train", data=pairs, model=net, dsmoe_reference="nowhere"))
    assert line.startswith("dsmoe_reference: expected"), line
    assert ("nowhere" if net == "yolov8n.yaml" else "a detector") in line


def test_a_net_with_the_row_and_data_without(pairs: Path, refused: Refused, command: Callable[..., list[str]]) -> None:
    line = refused(*command("train", data=pairs, model="yolov8n-ref.yaml", dsmoe_reference="none"))
    assert line.startswith("reference: expected reference: in the data YAML"), line


def test_images_that_move_alone(pairs: Path, tmp_path: Path) -> None:
    """From Python alone, and only where Albumentations is installed."""
    albumentations = pytest.importorskip("albumentations")
    from ultralytics import YOLO
    from ultralytics.utils import DEFAULT_CFG_DICT

    from ultra_dsmoe.errors import ConfigError

    if "augmentations" not in DEFAULT_CFG_DICT:
        pytest.skip("this host takes no augmentations")
    with pytest.raises(ConfigError, match="augmentations: expected transforms that leave all pixels"):
        YOLO("yolov8n.yaml").train(
            data=pairs,
            epochs=1,
            imgsz=64,
            device="cpu",
            project=str(tmp_path / "runs"),
            augmentations=[albumentations.Rotate(p=1)],
        )
    assert not (tmp_path / "runs").exists()
