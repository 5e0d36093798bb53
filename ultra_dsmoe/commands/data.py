"""``dsmoe-yolo data list | make | unpack | convert-voc | convert-masks | splice``: data sets and their images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ultra_dsmoe.commands.arguments import DATA
from ultra_dsmoe.constants import MAX_SEED
from ultra_dsmoe.data import packaged, splice
from ultra_dsmoe.data.boards import demo
from ultra_dsmoe.data.convert import archive, masks, splitting, voc
from ultra_dsmoe.data.convert.layout_check import absent_classes
from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.parsing import Command, Given, Option, one_of, text, whole


def shares(key: str, value: str) -> tuple[int, ...]:
    """Check shares such as 6:2:2."""
    try:
        return tuple(int(part) for part in text(key, value).split(":"))
    except ValueError as e:
        raise ConfigError(key, "shares such as 6:2:2", value) from e


def marks(key: str, value: str) -> tuple[str, ...]:
    """Check words such as _mask,masks."""
    words = tuple(word.strip() for word in text(key, value).split(","))
    if not all(words):
        raise ConfigError(key, "words such as _mask,masks", value)
    return words


def show(options: Given) -> int:
    """Print one row per packaged set."""
    print(f"{'set':<11}{'classes':>7}  {'images':<8}folder, or the command that brings them")
    for name, command in packaged.COMMANDS.items():
        data, root = packaged.load(name), packaged.images_root(name)
        here = all((root / data[split]).is_dir() for split in ("train", "val"))
        print(f"{name:<11}{len(data['names']):>7}  {'here' if here else 'missing':<8}{root if here else command}")
    return 0


def make(options: Given) -> int:
    """Generate the boards."""
    if options["name"].removesuffix(".yaml") != "pcb-demo":
        raise DataError("name", "pcb-demo, the only set that is generated", options["name"])
    root = Path(options["out"]) if "out" in options else packaged.images_root("pcb-demo")
    train, val = options.get("train", demo.TRAIN), options.get("val", demo.VAL)
    start = time.monotonic()
    file = demo.generate(root, train, val, options.get("seed", demo.SEED), options.get("size", demo.SIZE), _bar)
    print(f"pcb-demo: {train} + {val} boards in {time.monotonic() - start:.1f} s; train with data={file}")
    _caution(file.parent)
    return 0


def _bar(counter: Iterator[int], total: int) -> Iterator[int]:
    """Show a bar while boards are drawn."""
    from ultralytics.utils import TQDM  # late: the other commands need no host for it

    return iter(TQDM(counter, total=total, desc="boards"))


def unpack(options: Given) -> int:
    """Unpack an archive."""
    return _say_done(options, archive.unpack(options["name"], options["archive"], options.get("out")))


def convert_voc(options: Given) -> int:
    """Convert VOC labels."""
    root = voc.convert_voc(options["name"], options["folder"], **_split(options), root=options.get("out"))
    return _say_done(options, root)


def convert_masks(options: Given) -> int:
    """Convert pixel masks or class folders."""
    how = {key: options[key] for key in ("boxes", "marks", "join", "min_area") if key in options}
    name, folder = options["name"], options["folder"]
    made = masks.convert_masks(name, folder, **how, **_split(options), root=options.get("out"))
    code = _say_done(options, made.root)
    for caution in made.cautions(options.get("min_area", masks.MIN_AREA)):
        print(f"caution: {caution}")
    return code


def _split(options: Given) -> dict[str, Any]:
    """Return what was given of how to split."""
    return {
        to: options[key] for key, to in (("split", "ratio"), ("seed", "seed"), ("group", "group")) if key in options
    }


def splice_class(options: Given) -> int:
    """Write a set with spliced images."""
    for key, needed in (("class", "the name of a class, such as class=crazing"), ("out", "a folder to make")):
        if key not in options:
            raise ConfigError(key, needed, "none")
    kind, seed = options["class"], options.get("seed", splice.SEED)
    file = splice.splice_set(options["data"], kind, options["out"], add=options.get("add"), seed=seed)
    added = len(list((file.parent / "labels" / "train").glob(f"{splice.PREFIX}{kind}_*.txt")))
    print(f"{kind}: {added} spliced images among the training images; train with data={file}")
    return 0


def _say_done(options: Given, root: Path) -> int:
    """Tell where the images are and how to use them."""
    name, own = options["name"].removesuffix(".yaml"), packaged.is_file(options["name"])
    yaml = root / "data.yaml" if "out" in options else options["name"] if own else f"{name}.yaml"
    print(f"{name}: images are in {root}; train with data={yaml}")
    _caution(root)
    return 0


def _caution(root: Path) -> None:
    """Tell of classes that a new set does not show in one of its splits."""
    if absent := absent_classes(root):
        print(f"caution: {absent}")


_NAME = {"name": "name of a packaged set, such as deeppcb ('dsmoe-yolo data list' shows them)"}
_NAME_OPTION = Option(text, "packaged set")
_OUT = Option(text, "folder to make", "the one that the set's YAML expects")
LIST = Command("data list", "Lists the packaged sets and whether their images are here.", {}, show)
MAKE = Command(
    "data make",
    "Generates pcb-demo, or a variant of it under out=.",
    {
        "name": Option(text, "pcb-demo"),
        "train": Option(whole(1), "training boards", str(demo.TRAIN)),
        "val": Option(whole(1), "validation boards", str(demo.VAL)),
        "seed": Option(whole(0, MAX_SEED), "of what is drawn", str(demo.SEED)),
        "size": Option(whole(demo.MIN_SIZE, demo.MAX_SIZE), "side of the images in pixels", str(demo.SIZE)),
        "out": _OUT,
    },
    make,
    {"name": "pcb-demo, the only set that is generated"},
)
UNPACK = Command(
    "data unpack",
    "Puts the images of a set in place from a tar or zip in YOLO layout.",
    {"name": _NAME_OPTION, "archive": Option(text, "tar or zip with data.yaml, images/ and labels/"), "out": _OUT},
    unpack,
    {**_NAME, "archive": "a tar or zip in YOLO layout"},
)
_SPLIT = {
    "split": Option(shares, "shares of train:val[:test]", ":".join(map(str, splitting.RATIO))),
    "seed": Option(whole(0, MAX_SEED), "of the split", str(splitting.SEED)),
    "group": Option(text, "regular expression; images with the same first group stay together", "the set's own"),
    "out": _OUT,
}
_CONVERTED = {"name": "name of a packaged set, such as tilda, or a data YAML (with out=, or a path: of its own)"}
_CONVERTED_OPTION = Option(text, "packaged set, or data YAML")
CONVERT_VOC = Command(
    "data convert-voc",
    "Converts a folder of images and Pascal VOC .xml files.",
    {
        "name": _CONVERTED_OPTION,
        "folder": Option(text, "folder with the images and .xml files, at any depth"),
        **_SPLIT,
    },
    convert_voc,
    {**_CONVERTED, "folder": "a folder with images and .xml files"},
)
CONVERT_MASKS = Command(
    "data convert-masks",
    "Converts a folder of images and pixel masks: each region of a mask is a box. The class is that of the image's "
    "folder. The section 'masks' of the data YAML can say otherwise: 'kinds' (a folder, or what 'name' finds: a class, "
    "or nothing for good parts), 'name' (a regular expression whose first group, in a name, is such a word) and "
    "'values' (a class: the gray value or colour '#ff0000' of its pixels; else all that is not black is one class).",
    {
        "name": _CONVERTED_OPTION,
        "folder": Option(text, "folder with the images and masks, at any depth"),
        "boxes": Option(
            one_of(masks.BOXES), "masks, or image: around the whole image where there is no mask", masks.BOXES[0]
        ),
        "marks": Option(marks, "ends of names (with _) and names of folders that masks have", ",".join(masks.MARKS)),
        "join": Option(whole(1), "parts with fewer pixels than this between them are one region", str(masks.JOIN)),
        "min_area": Option(whole(1), "least pixels of a region", str(masks.MIN_AREA)),
        **_SPLIT,
    },
    convert_masks,
    {**_CONVERTED, "folder": "a folder with images and masks"},
)
SPLICE = Command(
    "data splice",
    "Copies a set with more training images of a class: those it has, turned and spliced.",
    {
        "data": Option(text, "data YAML of the set, such as neu-det.yaml"),
        "class": Option(text, "name of the class, such as crazing"),
        "add": Option(whole(1), "how many images to add", "as many as the class has"),
        "seed": Option(whole(0, MAX_SEED), "of turns, partners and seams", str(splice.SEED)),
        "out": Option(text, "folder to make"),
    },
    splice_class,
    DATA,
)
