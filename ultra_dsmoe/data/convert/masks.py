"""Convert a set with pixel masks, or with a folder of images per class, to boxes.

Each region of a mask is a box. Where an image shows one class, that is told by its place; where a mask shows several,
by its pixels. `mask_rules` says how the data YAML names both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ultra_dsmoe import checks
from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.convert.layout_check import IMAGE_SUFFIXES
from ultra_dsmoe.data.convert.lookalikes import refuse_lookalikes
from ultra_dsmoe.data.convert.mask_rules import GOOD, MaskRules
from ultra_dsmoe.data.convert.naming import distinct_stems, plain, require_folder
from ultra_dsmoe.data.convert.regions import colours, find_regions, foreground, image_size, values
from ultra_dsmoe.data.convert.splitting import RATIO, SEED, Sample, Split, free_root, write_set
from ultra_dsmoe.errors import DataError

MARKS = ("_mask", "_gt", "_label", "mask", "masks", "mask_images", "gt", "ground_truth")
JOIN = 1  # parts that touch
MIN_AREA = 4  # our choice: a box under 2x2 px teaches nothing, and masks that were scaled have such specks
BOXES = ("masks", "image")
PHOTOGRAPHS = frozenset({".jpg", ".jpeg"})
LABELS = 16  # numbers up to which masks seem to have classes; soft edges have more
HALF = 0.5  # of an image: defects are smaller
WHOLE = "0.500000 0.500000 1.000000 1.000000"


@dataclass
class Converted:
    """The new set, and what there is to say about it.

    Attributes:
        root: Its folder.
        whole: Images with a box around all of them.
        specks: Regions that were too small.
        empty: Masks that show nothing though their images are in the folder of a defect.
        bright: Masks that show more than half of their image, as those of black defects on white do.
        numbers: What pixels of masks say beside black, where no rule tells which class that is.
    """

    root: Path
    whole: int = 0
    specks: int = 0
    empty: list[Path] = field(default_factory=list)
    bright: list[Path] = field(default_factory=list)
    numbers: set[str] = field(default_factory=set)

    def cautions(self, min_area: int = MIN_AREA) -> Iterator[str]:
        """Yield what a user should look at; ``min_area`` as of `convert_masks`."""
        if self.whole:
            yield f"{self.whole} boxes are whole images; they say what is on an image, not where"
        if self.specks:
            yield f"{self.specks} regions of masks have under {min_area} pixels and no box (min_area=)"
        if self.empty:
            count, first = len(self.empty), self.empty[0]
            yield f"{count} masks of images in folders of defects show nothing, as of good parts (first: {first})"
        if self.bright:
            count, first = len(self.bright), self.bright[0]
            yield f"{count} masks show more than half of their image, as inverted ones do (first: {first})"
        if 1 < len(self.numbers) <= LABELS:
            found = ", ".join(sorted(self.numbers))
            yield f"masks have the values {found}, taken as one; 'masks: values' of the data YAML makes classes of them"


@dataclass(frozen=True)
class _Options:
    """What makes boxes of a mask."""

    boxes: str
    join: int
    min_area: int


def convert_masks(
    name: str,
    folder: str | Path,
    *,
    boxes: str = BOXES[0],
    marks: Sequence[str] = MARKS,
    join: int = JOIN,
    min_area: int = MIN_AREA,
    ratio: tuple[int, ...] = RATIO,
    seed: int = SEED,
    group: str | None = None,
    root: str | Path | None = None,
) -> Converted:
    """Copy images and write the boxes of their masks in YOLO layout.

    Args:
        name: Name of the packaged set, or a data YAML, which gives the classes and may have a section ``masks``.
        folder: Folder that holds images and masks, at any depth.
        boxes: "masks"; with "image", images without a mask have a box around all of them, but for good parts.
        marks: What masks are known by: the end of their names (``_mask``), or the name of a folder (``masks``). A file
            beside a JPEG of the same name is a mask too.
        join: Parts with fewer pixels than this between them are one region.
        min_area: The least pixels of a region.
        ratio: Shares of train, val and, if three are given, test.
        seed: Seed of the split.
        group: Regular expression whose first group, searched in an image's new name, says what must stay together; the
            data YAML's ``groups`` if left out.
        root: Where to put the set instead; needed where a data YAML is given.

    Raises:
        DSMoEError: If images, masks and classes do not fit together or the folder is in use.
    """
    checks.one_of("boxes", boxes, BOXES, DataError)
    for key, value in (("join", join), ("min_area", min_area)):
        checks.whole(key, value, kind=DataError)
    split, folder = Split(tuple(ratio), seed, group), Path(folder)
    require_folder(folder, "with images and masks")
    data, root = packaged.read(name), free_root(name, root)
    rules, options = MaskRules.parse(data), _Options(boxes, join, min_area)
    masks = _pair(folder, marks)
    if boxes == BOXES[0] and not any(masks.values()):
        expected = f"masks, known by the end of their names or by their folder: {', '.join(marks)}; or boxes=image"
        raise DataError(str(folder), expected, "none")
    refuse_lookalikes([image for image, mask in masks.items() if mask is None])
    stems = distinct_stems(folder, list(masks))
    made = Converted(root)
    samples = [
        Sample(image, stems[image], tuple(_label(folder, image, mask, rules, options, made)))
        for image, mask in masks.items()
    ]
    if not any(sample.lines for sample in samples):
        raise DataError(str(folder), "images with defects", "nothing but good ones")
    write_set(root, samples, data, split, f"Converted from masks for {name}")
    return made


def _pair(folder: Path, marks: Sequence[str]) -> dict[Path, Path | None]:
    """Return all images in the order of their names, each with its mask."""
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)
    beside = {f.with_suffix("") for f in files if f.suffix.lower() in PHOTOGRAPHS}
    owners: dict[Path, str] = {}  # stem of the image that a mask is of
    for file in files:
        stem = _owner(file.relative_to(folder), marks)
        if stem is None and file.suffix.lower() not in PHOTOGRAPHS and file.with_suffix("") in beside:
            stem = file.stem
        if stem is not None:
            owners[file] = stem
    masks: dict[Path, Path | None] = {file: None for file in files if file not in owners}
    if not masks:
        raise DataError(str(folder), "a folder with images", "none")
    named: dict[str, list[Path]] = defaultdict(list)
    for image in masks:
        named[image.stem].append(image)
    for mask, stem in owners.items():
        image = _nearest(mask, named[stem])
        if masks[image] is not None:
            raise DataError(str(image), "one mask", f"{masks[image]} and {mask}")
        masks[image] = mask
    return masks


def _owner(file: Path, marks: Sequence[str]) -> str | None:
    """Return the stem of the image that a file is a mask of by its name or folder, None where it is none."""
    endings = [mark.lower() for mark in marks if not mark[0].isalnum()]
    cut = next((len(end) for end in endings if file.stem.lower().endswith(end)), 0)
    folders = {plain(part) for part in file.parent.parts}
    is_mask = cut or any(plain(mark) in folders for mark in marks if mark[0].isalnum())
    return file.stem[: len(file.stem) - cut] if is_mask else None


def _nearest(mask: Path, images: Sequence[Path]) -> Path:
    """Return the image of a mask's name that has most folders in common with it."""
    shared = [len(set(image.parent.parts) & set(mask.parent.parts)) for image in images]
    best = [image for image, count in zip(images, shared, strict=True) if count == max(shared)]
    if len(best) != 1:
        raise DataError(str(mask), "one image of this name", f"{len(best)}")
    return best[0]


def _label(
    folder: Path, image: Path, mask: Path | None, rules: MaskRules, options: _Options, made: Converted
) -> list[str]:
    """Return the label lines of an image; what there is to say goes to ``made``."""
    size, places = image_size(image), [file.relative_to(folder) for file in (image, mask) if file]
    kind = rules.kind(places)
    if mask is None:
        if kind is None:
            raise rules.unknown(image, places[0])
        if kind != GOOD and options.boxes != "image":
            raise DataError(str(image), "a mask, or a folder of good parts (or boxes=image)", "none")
        made.whole += kind != GOOD
        return [] if kind == GOOD else [f"{kind} {WHOLE}"]
    lines, layers = [], _layers(mask, size, kind, rules, made)
    for index, region in layers.items():
        boxes, small = find_regions(region, options.join, options.min_area)
        if len(boxes) and kind == GOOD:
            raise DataError(str(mask), "an empty mask, for an image of good parts", f"one with regions: {len(boxes)}")
        if len(boxes) and index is None:
            raise rules.unknown(image, places[0])
        for x0, y0, x1, y1 in boxes / np.array([size[1], size[0], size[1], size[0]]):
            lines.append(f"{index} {(x0 + x1) / 2:.6f} {(y0 + y1) / 2:.6f} {x1 - x0:.6f} {y1 - y0:.6f}")
        made.specks += small
    share = sum(float(region.mean()) for region in layers.values())
    made.bright += [mask] * (share > HALF)
    made.empty += [mask] * (share == 0 and kind is not None and kind != GOOD)
    return lines


def _layers(
    mask: Path, size: tuple[int, int], kind: int | None, rules: MaskRules, made: Converted
) -> Mapping[int | None, np.ndarray]:
    """Return where a mask shows each class; under None that of a class which nothing tells."""
    if not rules.values:
        pixels, numbers = foreground(mask)
        made.numbers |= numbers
    else:
        pixels = colours(mask) if rules.by_colour else values(mask)
    if pixels.shape != size:
        got = "x".join(map(str, reversed(pixels.shape)))
        raise DataError(str(mask), f"the size of its image, {size[1]}x{size[0]}", got)
    if not rules.values:
        return {0 if kind is None and len(rules.names) == 1 else kind: pixels}
    if others := set(np.unique(pixels).tolist()) - {0, *rules.values}:
        known, other = ([f"#{v:06x}" if rules.by_colour else str(v) for v in vs] for vs in (rules.values, others))
        raise DataError(str(mask), f"values {', '.join(known)} on black, as the set's 'masks' says", min(other))
    return {index: pixels == value for value, index in rules.values.items()}
