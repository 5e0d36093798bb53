"""A board set whose known-good pictures are told from any others: each is the negative of its image."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

FOLDER = "golden"
OFF = {"jitter": 0, "exposure": 0, "noise": 0, "drop": 0}


def negative_set(boards: Path, root: Path, **section: Any) -> Path:
    """Copy a board set with a negative beside each image; return its data YAML.

    Args:
        boards: Data YAML of the set.
        root: Folder to make.
        section: What ``reference:`` says beside the folder.
    """
    shutil.copytree(boards.parent, root, ignore=shutil.ignore_patterns("*.cache", "*.npy"))
    for file in sorted((root / "images").rglob("*.*")):
        write_negative(root, file)
    content = {**yaml.safe_load(boards.read_text()), "path": str(root)}
    content["reference"] = {"folder": FOLDER, **OFF, **section}
    data = root / "pairs.yaml"
    data.write_text(yaml.safe_dump(content))
    return data


def write_negative(root: Path, image: Path) -> Path:
    """Write the negative of an image of the set and return it; a PNG, which keeps it exactly."""
    target = (root / FOLDER / image.relative_to(root / "images")).with_suffix(".png")
    target.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(target), 255 - np.asarray(cv2.imread(str(image))))
    return target
