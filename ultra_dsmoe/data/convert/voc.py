"""Convert a set with Pascal VOC labels (one XML per image) to the folder that a packaged data YAML expects."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.convert.layout_check import IMAGE_SUFFIXES
from ultra_dsmoe.data.convert.naming import require_folder
from ultra_dsmoe.data.convert.splitting import RATIO, SEED, Sample, Split, free_root, write_set
from ultra_dsmoe.errors import DataError

CORNERS = ("xmin", "ymin", "xmax", "ymax")


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
        name: Name of the packaged set, or a data YAML, which gives the classes.
        folder: Folder that holds images and XML files, at any depth.
        ratio: Shares of train, val and, if three are given, test.
        seed: Seed of the split.
        group: Regular expression whose first group, searched in an image's name, says what must stay together; the
            packaged YAML's ``groups`` if left out.
        root: Where to put the set instead; needed where a data YAML is given.

    Returns:
        The folder.

    Raises:
        DataError: If labels and images do not fit together or the folder is in use.
    """
    split, folder = Split(tuple(ratio), seed, group), Path(folder)
    require_folder(folder, "with images and Pascal VOC .xml files")
    data, root = packaged.read(name), free_root(name, root)
    samples = _read_samples(folder, packaged.class_names(data))
    write_set(root, samples, data, split, f"Converted from VOC labels for {name}")
    return root


def _read_samples(folder: Path, names: list[str]) -> list[Sample]:
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
        samples.append(Sample(matches[0], file.stem, tuple(_read_boxes(file, names))))
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
