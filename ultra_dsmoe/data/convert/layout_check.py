"""Check a folder in YOLO layout against a packaged data YAML before it is put where the YAML looks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ultra_dsmoe.constants import SPLITS
from ultra_dsmoe.data.packaged import class_names
from ultra_dsmoe.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
FIELDS = 5  # class, centre x, centre y, width, height


def find_root(folder: Path, source: str) -> Path:
    """Return the folder that holds ``data.yaml``: the given one or the only one below it that has it.

    Args:
        folder: Where an archive was extracted.
        source: What to name in the error.

    Raises:
        DataError: If there is none or more than one.
    """
    found = [f.parent for f in (folder / "data.yaml", *sorted(folder.glob("*/data.yaml"))) if f.is_file()]
    if len(found) != 1:
        got = "none" if not found else ", ".join(f.relative_to(folder).as_posix() or "top" for f in found)
        raise DataError(source, "one data.yaml, at the top or in the top folder", got)
    return found[0]


def check_layout(root: Path, packaged: dict[str, Any], source: str) -> dict[str, Any]:
    """Check classes, folders and labels.

    Args:
        root: Folder with ``data.yaml``, ``images/`` and ``labels/``.
        packaged: The packaged data YAML that will use the folder.
        source: What to name in the error.

    Returns:
        The folder's own data YAML.

    Raises:
        DataError: If something does not fit.
    """
    try:
        own = yaml.safe_load((root / "data.yaml").read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(source, "a data.yaml that can be read", str(error)) from error
    expected = class_names(packaged)
    names = class_names(own if isinstance(own, dict) else {})
    if names != expected:
        raise DataError(source, f"classes {', '.join(expected)} in this order", ", ".join(names))
    for split in ("train", "val"):
        images = root / packaged[split]
        if not images.is_dir() or not any(f.suffix.lower() in IMAGE_SUFFIXES for f in images.iterdir()):
            raise DataError(source, f"images in {packaged[split]}", "none")
        labels = root / packaged[split].replace("images", "labels", 1)
        files = sorted(labels.glob("*.txt"))
        if not files:
            raise DataError(source, f"label files in {labels.relative_to(root).as_posix()}", "none")
        for file in files:
            _check_labels(file, len(expected), source)
    return own


def absent_classes(root: Path) -> str:
    """Return in a line which classes no label of a split shows, nothing where all are there.

    Args:
        root: Folder with ``data.yaml``, ``images/`` and ``labels/``, checked.
    """
    data = yaml.safe_load((root / "data.yaml").read_text(encoding="utf-8"))
    names, said = class_names(data), []
    for split in SPLITS:
        if split not in data:
            continue
        files = (root / str(data[split]).replace("images", "labels", 1)).glob("*.txt")
        lines = (line for file in files for line in file.read_text(encoding="utf-8").splitlines())
        shown = {int(line.split()[0]) for line in lines if line.strip()}
        if absent := [name for i, name in enumerate(names) if i not in shown]:
            fate = "learned" if split == SPLITS[0] else "judged"
            said.append(f"no {split} image shows {', '.join(absent)}, which cannot be {fate} there")
    return "; ".join(said)


def _check_labels(file: Path, classes: int, source: str) -> None:
    """Check that each line has a class of the set and a box inside the image."""
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        fields = line.split()
        try:
            kind, box = int(fields[0]), [float(v) for v in fields[1:]]
        except (ValueError, IndexError):
            kind, box = -1, []
        if len(fields) != FIELDS or not 0 <= kind < classes or not all(0 <= v <= 1 for v in box):
            where = f"{source}, {file.parent.name}/{file.name} line {number}"
            raise DataError(where, f"a class from 0 to {classes - 1} and four numbers from 0 to 1", line)
