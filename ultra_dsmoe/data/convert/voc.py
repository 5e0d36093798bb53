"""Convert a set with Pascal VOC labels (one XML per image) to the folder that a packaged data YAML expects.

The split keeps groups together: pictures of one board, or overlapping windows of one surface, on both sides of a split
make every score too good.
"""

from __future__ import annotations

import math
import re
import shutil
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ultra_dsmoe.checks import whole
from ultra_dsmoe.constants import SPLITS
from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.convert.layout_check import IMAGE_SUFFIXES
from ultra_dsmoe.errors import DataError
from ultra_dsmoe.files import require_unused, whole_folder

RATIO = (6, 2, 2)  # [DSMoE] for the board set
SEED = 42  # [DSMoE]
CORNERS = ("xmin", "ymin", "xmax", "ymax")
EACH_ALONE = "^(.*)$"  # what tells an image's group where nothing is known: its whole name


@dataclass(frozen=True)
class _Sample:
    """One labelled image: its file, its name without suffix and its label lines."""

    image: Path
    stem: str
    lines: tuple[str, ...]


def convert_voc(
    name: str,
    folder: str | Path,
    *,
    ratio: tuple[int, ...] = RATIO,
    seed: int = SEED,
    group: str | None = None,
    root: str | Path | None = None,
) -> Path:
    """Copy images and convert labels into YOLO layout.

    Args:
        name: Name of the packaged set, which gives the classes.
        folder: Folder that holds images and XML files, at any depth.
        ratio: Shares of train, val and, if three are given, test.
        seed: Seed of the split.
        group: Regular expression whose first group, searched in an image's name, says what must stay together; the
            packaged YAML's ``groups`` if left out.
        root: Where to put the set instead.

    Returns:
        The folder.

    Raises:
        DataError: If labels and images do not fit together or the folder is in use.
    """
    data, folder = packaged.load(name), Path(folder)
    root = Path(root).resolve() if root else packaged.images_root(name)
    whole("seed", seed, low=0, kind=DataError)
    if len(ratio) not in (2, 3) or min(ratio) < 0 or min(ratio[:2]) == 0:
        raise DataError("split", "two or three shares such as 6:2:2, the first two above 0", ":".join(map(str, ratio)))
    require_unused(root)
    names = packaged.class_names(data)
    samples = _read_samples(folder, names)
    group = group or data.get("groups")
    parts = _split(samples, ratio, seed, _group_pattern(group or EACH_ALONE))
    with whole_folder(root) as partial:
        for split, members in parts.items():
            _write_split(partial, split, members)
        splits = {split: f"images/{split}" for split in parts}
        note = f"Converted from VOC labels for {name}, split {':'.join(map(str, ratio))} (seed {seed})"
        text = packaged.yaml_beside(data, splits, note, {"groups": group} if group else None)
        (partial / "data.yaml").write_text(text, encoding="utf-8")
    return root


def _group_pattern(group: str) -> re.Pattern[str]:
    """Compile the expression that tells the group of an image."""
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise DataError("group", "a regular expression", f"{group} ({error})") from error
    if pattern.groups != 1:
        raise DataError("group", "a regular expression with one group in parentheses", group)
    return pattern


def _read_samples(folder: Path, names: list[str]) -> list[_Sample]:
    """Pair every XML file with its image and read its boxes, in the order of the names."""
    images: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in IMAGE_SUFFIXES:
            images[file.stem].append(file)
    annotations = sorted(folder.rglob("*.xml"), key=lambda f: f.stem)
    if not annotations:
        raise DataError(str(folder), "a folder with Pascal VOC .xml files", "none")
    samples = []
    for file in annotations:
        # Rotated copies of the board set carry the names of the upright images, in folders of other names.
        matches = images[file.stem]
        matches = matches if len(matches) == 1 else [m for m in matches if m.parent.name == file.parent.name]
        if len(matches) != 1:
            raise DataError(str(file), "one image of this name", str(len(matches)))
        samples.append(_Sample(matches[0], file.stem, tuple(_read_boxes(file, names))))
    stems = [s.stem for s in samples]
    if len(set(stems)) != len(stems):
        twice = next(a for a, b in pairwise(stems) if a == b)
        raise DataError(str(folder), "one .xml file per image name", f"two of {twice}")
    return samples


def _read_boxes(file: Path, names: list[str]) -> list[str]:
    """Return the label lines of one XML file; corners are taken as they are, in pixels from 0."""
    try:
        tree = ElementTree.parse(file)
        size = [float(tree.findtext(f"size/{k}", "")) for k in ("width", "height")]
        kinds = [o.findtext("name", "") for o in tree.iter("object")]
        boxes = [[float(o.findtext(f"bndbox/{k}", "")) for k in CORNERS] for o in tree.iter("object")]
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # a lookup of its encoding
        raise DataError(str(file), "a Pascal VOC file with size and boxes", str(error)) from error
    if not all(0 < side < math.inf for side in size):
        raise DataError(str(file), "the image's width and height above 0", size)
    index = {n.lower(): i for i, n in enumerate(names)}
    lines = []
    for kind, corners in zip(kinds, boxes, strict=True):
        key = kind.strip().lower().replace(" ", "_")
        if key not in index:
            raise DataError(str(file), f"classes {', '.join(names)}", kind or "a box without a name")
        x0, x1 = (min(max(v, 0.0), size[0]) / size[0] for v in (corners[0], corners[2]))
        y0, y1 = (min(max(v, 0.0), size[1]) / size[1] for v in (corners[1], corners[3]))
        if not (x1 > x0 and y1 > y0):  # NaN neither
            raise DataError(str(file), "boxes with xmin < xmax and ymin < ymax inside the image", corners)
        lines.append(f"{index[key]} {(x0 + x1) / 2:.6f} {(y0 + y1) / 2:.6f} {x1 - x0:.6f} {y1 - y0:.6f}")
    return lines


def _split(
    samples: list[_Sample], ratio: tuple[int, ...], seed: int, pattern: re.Pattern[str]
) -> dict[str, list[_Sample]]:
    """Deal whole groups out in random order, each to the split that lacks the largest share of its images.

    A class that the training images would not show gets a group back from another split, where that can spare one.
    """
    groups: dict[str, list[_Sample]] = defaultdict(list)
    for sample in samples:
        match = pattern.search(sample.stem)
        groups[match[1] if match and match[1] else sample.stem].append(sample)
    order = sorted(groups)
    np.random.default_rng(seed).shuffle(order)
    wanted = {s: len(samples) * r / sum(ratio) for s, r in zip(SPLITS, ratio, strict=False) if r}
    dealt: dict[str, list[str]] = {split: [] for split in wanted}
    counts = dict.fromkeys(wanted, 0)
    for key in order:
        neediest = max(wanted, key=lambda s: 1 - counts[s] / wanted[s])
        dealt[neediest].append(key)
        counts[neediest] += len(groups[key])
    if not all(dealt.values()):
        raise DataError("split", f"at least {len(wanted)} groups of images, one per split", f"{len(order)}")
    _fill_training(dealt, groups)
    return {split: [sample for key in keys for sample in groups[key]] for split, keys in dealt.items()}


def _fill_training(dealt: dict[str, list[str]], groups: dict[str, list[_Sample]]) -> None:
    """Move groups to the training images until these show every class, or the other splits have one group each."""
    kinds = {key: {line.split()[0] for sample in members for line in sample.lines} for key, members in groups.items()}
    train = SPLITS[0]
    while True:
        shown = set().union(*(kinds[key] for key in dealt[train]))
        spare = [(split, key) for split, keys in dealt.items() if split != train and len(keys) > 1 for key in keys]
        useful = [(split, key) for split, key in spare if kinds[key] - shown]
        if not useful:
            return
        split, key = min(useful, key=lambda place: (-len(kinds[place[1]] - shown), len(groups[place[1]]), place[1]))
        dealt[split].remove(key)
        dealt[train].append(key)


def _write_split(root: Path, split: str, samples: list[_Sample]) -> None:
    """Copy the images of one split and write their labels."""
    images, labels = root / "images" / split, root / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for sample in samples:
        shutil.copyfile(sample.image, images / f"{sample.stem}{sample.image.suffix.lower()}")
        text = "".join(f"{line}\n" for line in sample.lines)
        (labels / f"{sample.stem}.txt").write_text(text, encoding="utf-8")
