"""A classification set out of a detection set: each box with what is around it, and places without one.

Crops lie in ``<split>/<class>/<image>_<number>.png``, beside each a JSON file with the numbers of its box and where it
was cut. Splits stay as they are, so no image is on two sides of one. Places without a defect are hard on purpose:
boxes of the sizes of the true ones, where the picture has most contrast.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ultra_dsmoe import checks
from ultra_dsmoe.constants import MAX_SEED, MIN_PIXELS, SPLITS
from ultra_dsmoe.data.convert.naming import distinct_stems
from ultra_dsmoe.data.crop_places import Box, find_background, record, region
from ultra_dsmoe.data.groups import check_groups
from ultra_dsmoe.data.labelled import Piece, class_names, read_piece, read_set, split_labels
from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.files import require_unused, whole_folder
from ultra_dsmoe.runtime.detections import letterbox

MARGIN, SHARE, SEED = 0.15, 0.2, 42
MOST = 4.0  # of a margin and of a share: beyond, a crop is the image, and most of a set is background
BACKGROUND = "background"
NOTE = "crops.json"  # how the set was made
FORBIDDEN = frozenset('/\\:*?"<>|')  # in names of folders, on one system or another
MAX_SIDE = 4096

Bar = Callable[[Iterator[Any], int], Iterator[Any]]


@dataclass
class Crops:
    """What was made.

    Attributes:
        root: The folder.
        counts: Crops of each class in each split that has any.
        lacking: Crops of the background that found no place.
    """

    root: Path
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    lacking: int = 0


@dataclass(frozen=True)
class _Options:
    margin: float
    size: int
    background: float
    seed: int
    limit: int


def crop_set(
    data: str | Path,
    root: str | Path,
    *,
    margin: float = MARGIN,
    size: int = 0,
    background: float = SHARE,
    seed: int = SEED,
    limit: int = 0,
    progress: Bar | None = None,
) -> Crops:
    """Write a classification set with the boxes of a detection set.

    Args:
        data: Data YAML of the set, a name that the host finds or a path; polygons count as boxes.
        root: Folder to make.
        margin: What is shown around a box, as a share of its longer side, though at least a few pixels; 0 for none.
        size: Side of the crops in pixels, with gray bars; 0 leaves each as large as it is.
        background: Crops without a box for each one with a box, in every split.
        seed: Of their places, and of the images that come first.
        limit: Most crops of a class in train, 0 for all: for learning from few. Where the set has no test split, other
            images of its train split fill val as far, and its val split is test.
        progress: Wraps the images, ``progress(images, total)``, to show a bar.

    Raises:
        DSMoEError: If an option is wrong, the set has no boxes, names that are no folders or an image in two splits, or
            the folder is in use.
    """
    options = _checked(_Options(margin, size, background, seed, limit))
    root = Path(root).resolve()
    require_unused(root)
    content = read_set(data)
    names = class_names(content)
    _check_names(names, background > 0)
    found = {split: _shuffled(split_labels(content, split), seed) for split in SPLITS}
    _check_apart(found)
    if not any(len(label["cls"]) for labels in found.values() for label in labels):
        raise DataError("data", "labelled boxes in at least one split", f"{data}, without a single one")
    made = Crops(root)
    with whole_folder(root, NOTE) as folder:
        labels = ((split, label) for split in SPLITS for label in found[split])
        total = sum(map(len, found.values()))
        shown = progress(labels, total) if progress else labels
        writer = _Writer(folder, content, names, found, options)
        for split, label in shown:
            writer.cut(split, label)
        made.counts, made.lacking = writer.counts, writer.lacking
        _complete(folder, made.counts)
        note = {"data": Path(data).name, **vars(options), "crops": made.counts}
        (folder / NOTE).write_text(json.dumps(note, indent=1), encoding="utf-8")
    return made


class _Writer:
    """Cuts images one after the other and counts what comes of it."""

    def __init__(
        self,
        folder: Path,
        content: dict[str, Any],
        names: list[str],
        found: dict[str, list[dict[str, Any]]],
        options: _Options,
    ) -> None:
        self.folder, self.names, self.options = folder, names, options
        self.base = Path(content["path"]).resolve()
        self.counts: dict[str, Counter[str]] = {}
        self.lacking = 0
        self.stems: dict[Path, str] = {}
        for labels in filter(None, found.values()):
            files = [_file(label) for label in labels]
            self.stems.update(distinct_stems(Path(os.path.commonpath([file.parent for file in files])), files))
        self.sizes = {split: _sizes(labels) for split, labels in found.items()}
        self.left = {split: len(labels) for split, labels in found.items()}
        self.wanted = {split: round(options.background * len(sizes)) for split, sizes in self.sizes.items()}
        self.parts = _Parts(options.limit, bool(found["test"]), content.get("groups"))

    def cut(self, split: str, label: dict[str, Any]) -> None:
        """Write the crops of an image: of its boxes, and its share of those of the background."""
        piece, file = read_piece(label), _file(label)
        real = (piece.boxes_xyxy_px[:, 2:] > piece.boxes_xyxy_px[:, :2]).all(1)  # the host drops the others as well
        # Whole pixels, as those of the background are: fractions would tell which is which.
        boxes = [region(box, piece.size, 0) for box in piece.boxes_xyxy_px[real].tolist()]
        kinds = [self.names[kind] for kind in piece.classes[real]]
        share = -(-self.wanted[split] // self.left[split])  # what an image has no room for, the next ones take over
        rng = np.random.default_rng([self.options.seed, self.left[split], *file.name.encode()])
        free = find_background(piece, boxes, self.sizes[split], share, self.options.margin, rng)
        self.left[split] -= 1
        self.wanted[split] -= len(free)
        self.lacking += 0 if self.left[split] else self.wanted[split]
        places = [*zip(kinds, boxes, strict=True), *((BACKGROUND, box) for box in free)]
        part = self.parts.of(split, file, {kind for kind, _ in places}, self.counts)
        for number, (kind, box) in enumerate(places):
            if self.parts.has_room(part, kind, self.counts):
                self._write(self.folder / part / kind / f"{self.stems[file]}_{number}", piece, box, file)
                self.counts.setdefault(part, Counter())[kind] += 1

    def _write(self, target: Path, piece: Piece, box: Box, file: Path) -> None:
        """Write one crop and the file beside it."""
        x0, y0, x1, y1 = region(box, piece.size, self.options.margin)
        pixels = piece.pixels[y0:y1, x0:x1]
        if self.options.size:
            pixels = letterbox(np.ascontiguousarray(pixels), (self.options.size, self.options.size))
        gray = (pixels == pixels[..., :1]).all()
        encoded = cv2.imencode(".png", pixels[..., 0] if gray else pixels)[1]
        place = file.resolve()
        name = place.relative_to(self.base).as_posix() if place.is_relative_to(self.base) else file.name
        source = {"image": name, "box_xyxy_px": box}
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_name(f"{target.name}.png").write_bytes(encoded.tobytes())
        text = json.dumps({"record": record(box, piece.size), "source": source})
        target.with_name(f"{target.name}.json").write_text(text, encoding="utf-8")


class _Parts:
    """Which split an image's crops go to, and whether it still takes them; images of one group go together."""

    def __init__(self, limit: int, has_test: bool, groups: Any) -> None:
        self.limit, self.moves = limit, limit > 0 and not has_test
        self.few = ("train", "val") if self.moves else ("train",)
        self.groups = check_groups("data", groups)
        self.taken: dict[str, str] = {}

    def of(self, split: str, file: Path, kinds: set[str], counts: dict[str, Counter[str]]) -> str:
        """Return the split of an image with crops of these kinds: the first one that lacks some."""
        if not self.limit or split not in ("train", "val") or (split == "val" and not self.moves):
            return split
        if split == "val":
            return "test"
        lacking = (part for part in self.few if any(self.has_room(part, kind, counts) for kind in kinds))
        found = re.search(self.groups, file.stem) if self.groups else None
        return self.taken.setdefault(found[1] if found else str(file), next(lacking, self.few[-1]))

    def has_room(self, part: str, kind: str, counts: dict[str, Counter[str]]) -> bool:
        """Whether a split takes another crop of a kind."""
        return not self.limit or part not in self.few or counts.get(part, Counter())[kind] < self.limit


def _file(label: dict[str, Any]) -> Path:
    return Path(label["im_file"]).absolute()


def _sizes(labels: list[dict[str, Any]]) -> np.ndarray:
    """Return width and height in pixels of all boxes that have an area, (N, 2)."""
    sizes = [label["bboxes"][:, 2:] * label["shape"][::-1] for label in labels]
    found = np.concatenate(sizes).astype(float) if sizes else np.zeros((0, 2))
    return found[(found > 0).all(1)]


def _complete(folder: Path, counts: dict[str, Counter[str]]) -> None:
    """Make the folders of classes that a split does not show: classes are numbered by the folders that are there."""
    for split in counts:
        for kind in set().union(*counts.values()):
            (folder / split / kind).mkdir(exist_ok=True)


def _shuffled(labels: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Return labels in an order of the seed: fewer places than images are then not those of the first names."""
    ordered = sorted(labels, key=lambda label: label["im_file"])
    return [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]


def _checked(options: _Options) -> _Options:
    """Refuse options that are no sizes or shares."""
    checks.number("margin", options.margin, 0, MOST)
    checks.number("background", options.background, 0, MOST)
    checks.whole("seed", options.seed, 0, MAX_SEED)
    checks.whole("limit", options.limit, 0)
    if options.size:
        checks.whole("size", options.size, MIN_PIXELS, MAX_SIDE, expected=f"0, or {MIN_PIXELS} to {MAX_SIDE} pixels")
    return options


def _check_names(names: list[str], has_background: bool) -> None:
    """Refuse class names that cannot be the names of folders, or of different ones."""
    for name in names:
        if FORBIDDEN & set(name) or not name.isprintable() or not name.strip(". ") or name != name.strip():
            raise DataError("names", "class names that can be names of folders, such as oil_spot", repr(name))
    for name, number in Counter(name.lower() for name in names).items():
        if number > 1:
            raise DataError("names", "class names that differ, in more than case", f"{number} of {name}")
    if has_background and BACKGROUND in map(str.lower, names):
        raise ConfigError("background", f"0 for a set with a class of the name {BACKGROUND}", "more")


def _check_apart(found: dict[str, list[dict[str, Any]]]) -> None:
    """Refuse an image that two splits have."""
    owners: dict[str, str] = {}
    for split, labels in found.items():
        for label in labels:
            file = os.path.realpath(label["im_file"])
            if owners.setdefault(file, split) != split:
                raise DataError("data", f"splits without a common image ({owners[file]}, {split})", file)
