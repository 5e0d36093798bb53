"""More training images of a class: its images turned by quarters and spliced, two at a time, with their boxes.

Source: [TS] Sec. 4, which adds "rotated and spliced" images of NEU-DET's crazing and names no numbers; how images are
spliced, and how many, is ours. The paper's other set that is made larger before training, of aluminium sheet, goes from
412 to 1236 images, and is split afterwards; here only training images are taken, so that no copy lies on both sides.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ultra_dsmoe import checks
from ultra_dsmoe.constants import SPLITS
from ultra_dsmoe.data.labelled import Piece, class_names, read_piece, read_set, split_labels
from ultra_dsmoe.errors import DataError
from ultra_dsmoe.files import require_unused, whole_folder

SEED = 42
PREFIX = "spliced_"
_CUTS = (0.3, 0.7)  # where a seam may lie, as a share of the side
_LEAST = 0.25  # of a box that a seam cuts, or nothing of it: slivers teach nothing, and left out would be background
_TRIES = 20  # seams; where every one leaves a sliver, the image is turned alone
_DROPPED = ("path", "yaml_file", "download", "nc", *SPLITS)  # of the data YAML, what does not hold for the new set


def turn(piece: Piece, quarters: int) -> Piece:
    """Return an image turned counter-clockwise by quarters of a circle, which is exact for pixels and boxes alike."""
    boxes, (_, width) = piece.boxes_xyxy_px, piece.size
    if not quarters % 4:
        return piece
    x1, y1, x2, y2 = boxes.T
    turned = Piece(np.rot90(piece.pixels), piece.classes, np.stack([y1, width - x2, y2, width - x1], 1))
    return turn(turned, quarters % 4 - 1)


def splice(first: Piece, second: Piece, seam: int, across: bool) -> Piece | None:
    """Return the beginning of one image with the end of another behind it; None where a seam leaves a sliver of a box.

    Args:
        first: Up to the seam.
        second: From the seam on, of the same size.
        seam: Where, in pixels: a column, or with ``across`` a row.
        across: Whether the seam runs from left to right.
    """
    axis = 1 if across else 0  # of the corners: y or x
    parts = []
    for piece, low, high in ((first, 0, seam), (second, seam, first.size[1 - axis])):
        boxes = piece.boxes_xyxy_px.copy()
        whole = boxes[:, 2 + axis] - boxes[:, axis]
        boxes[:, [axis, 2 + axis]] = boxes[:, [axis, 2 + axis]].clip(low, high)
        left = (boxes[:, 2 + axis] - boxes[:, axis]) / whole
        if ((left > 0) & (left < _LEAST)).any():
            return None
        parts.append((piece.classes[left > 0], boxes[left > 0]))
    before, behind = (first.pixels[:seam], second.pixels[seam:]) if across else (
        first.pixels[:, :seam], second.pixels[:, seam:]
    )  # fmt: skip
    classes, boxes = (np.concatenate(both) for both in zip(*parts, strict=True))
    return Piece(np.concatenate([before, behind], 1 - axis), classes, boxes)


def combine(first: Piece, second: Piece, rng: np.random.Generator) -> Piece:
    """Return the first image turned by one to three quarters, and spliced with the second, turned to suit, at random.

    Where the second has another size however it is turned, the first turned otherwise takes its place.
    """
    quarters = int(rng.integers(1, 4))
    first, upright = turn(first, quarters), first
    fitting = [t for k in range(4) if (t := turn(second, k)).size == first.size]
    fitting = fitting or [turn(upright, quarters + 2)]
    for _ in range(_TRIES):
        across = bool(rng.integers(2))
        seam = round(rng.uniform(*_CUTS) * first.size[0 if across else 1])
        made = splice(first, fitting[rng.integers(len(fitting))], seam, across)
        if made is not None:
            return made
    return first


def splice_set(data: str | Path, kind: str, root: str | Path, add: int | None = None, seed: int = SEED) -> Path:
    """Write a data set like another one, with spliced images of a class among its training images.

    Args:
        data: Data YAML of the set, a name that the host finds or a path.
        kind: Name of the class; whatever else its images show is kept, with its boxes.
        root: Folder to make.
        add: How many images; as many as the class has where left out.
        seed: Of turns, partners and seams.

    Returns:
        The data YAML of the new set.

    Raises:
        DataError: If the set, the class or its images are not there, or the folder is in use.
    """
    root = Path(root).resolve()
    require_unused(root)
    content = read_set(data)
    names = class_names(content)
    checks.one_of("class", kind, names, DataError)
    found = {split: _in_order(labels) for split in SPLITS if (labels := split_labels(content, split))}
    shown = [x for x in found["train"] if names.index(kind) in x["cls"] and not _is_spliced(x)]
    if not shown:
        raise DataError("class", f"a class that training images of {data} show", kind)
    if add is not None:
        checks.whole("add", add, kind=DataError)
    with whole_folder(root) as partial:
        for split, labels in found.items():
            _copy(labels, partial, split)
        _write_spliced(shown, kind, partial, len(shown) if add is None else add, seed)
        own = {**{split: f"images/{split}" for split in found}, "names": dict(enumerate(names))}
        own |= {k: v for k, v in content.items() if k not in (*_DROPPED, "names")}
        (partial / "data.yaml").write_text(yaml.safe_dump(own, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return root / "data.yaml"


def _in_order(labels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(labels, key=lambda label: label["im_file"])


def _is_spliced(label: dict[str, Any]) -> bool:
    return Path(label["im_file"]).name.startswith(PREFIX)


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    """Return the folders of a split's images and labels, made where they are missing."""
    images, labels = root / "images" / split, root / "labels" / split
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    return images, labels


def _copy(found: list[dict[str, Any]], root: Path, split: str) -> None:
    """Copy the images of a split with their label files."""
    from ultralytics.data.utils import img2label_paths

    images, labels = _folders(root, split)
    files = [Path(label["im_file"]) for label in found]
    name, number = Counter(f.stem for f in files).most_common(1)[0]
    if number > 1:
        raise DataError(f"'{split}' split", "one image of each name", f"{number} of {name}")
    for file, lines in zip(files, map(Path, img2label_paths([str(f) for f in files])), strict=True):
        shutil.copyfile(file, images / file.name)
        if lines.is_file():
            shutil.copyfile(lines, labels / f"{file.stem}.txt")


def _write_spliced(shown: list[dict[str, Any]], kind: str, root: Path, add: int, seed: int) -> None:
    """Write the new images and their labels; every image of the class comes first equally often."""
    from ultralytics.utils.patches import imwrite

    images, labels = _folders(root, "train")
    order = np.random.default_rng(seed).permutation(len(shown))
    for i in range(add):
        rng = np.random.default_rng([seed, i])
        first, second = shown[order[i % len(shown)]], shown[rng.integers(len(shown))]
        made = combine(read_piece(first), read_piece(second), rng)
        name = f"{PREFIX}{kind}_{i:05d}"
        if (labels / f"{name}.txt").exists():
            raise DataError("data", f"a set without spliced images of {kind}", name)
        gray = (made.pixels == made.pixels[..., :1]).all()
        imwrite(str(images / f"{name}.png"), made.pixels[..., 0] if gray else made.pixels)
        (labels / f"{name}.txt").write_text("".join(f"{line}\n" for line in made.label_lines()), encoding="utf-8")
