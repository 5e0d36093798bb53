"""``dsmoe-yolo data list | make | unpack | convert-voc | convert-masks | splice | tda``: data sets and their images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ultra_dsmoe.commands.arguments import DATA
from ultra_dsmoe.constants import DRAWN_PIXELS, MAX_SEED, SPLITS
from ultra_dsmoe.data import packaged, splice
from ultra_dsmoe.data.boards import demo
from ultra_dsmoe.data.convert import archive, masks, splitting, voc
from ultra_dsmoe.data.convert.layout_check import absent_classes
from ultra_dsmoe.data.hits import demo as hits
from ultra_dsmoe.data.hits import draw, tda
from ultra_dsmoe.data.hits.distribution import CLASSES as HIT_CLASSES
from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.parsing import Command, Given, Option, number, one_of, text, whole


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
    print(f"{'set':<13}{'classes':>7}  {'images':<8}folder, or the command that brings them")
    for name, command in packaged.COMMANDS.items():
        data, root = packaged.load(name), packaged.images_root(name)
        here = all((root / data[split]).is_dir() for split in ("train", "val"))
        _print_row(name, len(data["names"]), root if here else None, command)
    root = packaged.place_of(hits.NAME)
    here = all((root / split).is_dir() for split in SPLITS)
    _print_row(hits.NAME, len(HIT_CLASSES), root if here else None, f"dsmoe-yolo data make {hits.NAME}")
    return 0


def _print_row(name: str, classes: int, root: Path | None, command: str) -> None:
    """Print the row of a set, with its folder where it is here."""
    print(f"{name:<13}{classes:>7}  {'here' if root else 'missing':<8}{root or command}")


def make(options: Given) -> int:
    """Generate the boards or the hits."""
    name = options["name"].removesuffix(".yaml")
    if name not in GENERATED:
        raise DataError("name", f"{', '.join(GENERATED)}, the sets that are generated", options["name"])
    return GENERATED[name](options)


def _make_boards(options: Given) -> int:
    """Generate pcb-demo, or pcb-demo-ref with a known-good board beside each."""
    name = options["name"].removesuffix(".yaml")
    for key in ("test", "spread"):
        if key in options:
            raise ConfigError(key, f"a key of {name}; this one is {hits.NAME}'s", options[key])
    root = Path(options["out"]) if "out" in options else packaged.images_root(name)
    train, val = options.get("train", demo.TRAIN), options.get("val", demo.VAL)
    seed, size = options.get("seed", demo.SEED), options.get("size", demo.SIZE)
    start = time.monotonic()
    file = demo.generate(root, train, val, seed, size, _bar, references=name == demo.WITH_REFERENCES)
    print(f"{name}: {train} + {val} boards in {time.monotonic() - start:.1f} s; train with data={file}")
    _caution(file.parent)
    return 0


def _make_hits(options: Given) -> int:
    """Generate hits-demo."""
    root = Path(options["out"]) if "out" in options else packaged.place_of(hits.NAME)
    start = time.monotonic()
    made = hits.generate(root, **{k: v for k, v in options.items() if k not in ("name", "out")}, progress=_bar)
    counts = " + ".join(str(options.get(split, count)) for split, count in _HITS.items())
    name = made if "out" in options else hits.NAME
    print(f"{hits.NAME}: {counts} images in {time.monotonic() - start:.1f} s; train with data={name}")
    return 0


GENERATED = {demo.NAME: _make_boards, demo.WITH_REFERENCES: _make_boards, hits.NAME: _make_hits}
_HITS = dict(zip(SPLITS, (hits.TRAIN, hits.VAL, hits.TEST), strict=True))


def _bar(counter: Iterator[int], total: int) -> Iterator[int]:
    """Show a bar while images are drawn."""
    from ultralytics.utils import TQDM  # late: the other commands need no host for it

    return iter(TQDM(counter, total=total, desc="images"))


def unpack(options: Given) -> int:
    """Unpack an archive, of a set with references that of those."""
    name = options["name"].removesuffix(".yaml")
    if name in packaged.REFERENCE_COMMANDS:
        root = archive.unpack_references(name, options["archive"], options.get("out"))
        print(f"{name}: references are in {root}; train with data={name}.yaml")
        return 0
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


def add_hits(options: Given) -> int:
    """Write a set with drawn images of hits."""
    if "out" not in options:
        raise ConfigError("out", "a folder to make", "none")
    how = {key: options[key] for key in ("add", "seed", "spread") if key in options}
    root = tda.augment(packaged.place_of(options["data"]), options["out"], **how)
    added = len(list((root / "train").glob(f"*/{tda.PREFIX}*.png")))
    print(f"{options['data']}: {added} drawn images among the training images; train with data={root}")
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
_OUT = Option(text, "folder to make", "where the set is looked for")
LIST = Command("data list", "Lists the packaged sets and whether their images are here.", {}, show)
MAKE = Command(
    "data make",
    "Generates pcb-demo, boards with defects and their boxes, pcb-demo-ref, the same with a known-good board beside "
    f"each, or {hits.NAME}, a classification set of drill hits with the record of each image; or a variant of it under "
    "out=.",
    {
        "name": Option(text, ", ".join(GENERATED)),
        "train": Option(whole(1), "training images", f"{demo.TRAIN}, of {hits.NAME} {hits.TRAIN}"),
        "val": Option(whole(1), "validation images", f"{demo.VAL}, of {hits.NAME} {hits.VAL}"),
        "test": Option(whole(1), f"test images, {hits.NAME} only", str(hits.TEST)),
        "seed": Option(whole(0, MAX_SEED), "of what is drawn", str(demo.SEED)),
        "size": Option(
            whole(*DRAWN_PIXELS), "side of the images in pixels", f"{demo.SIZE}, of {hits.NAME} {draw.SIZE}"
        ),
        "spread": Option(
            number(0, hits.MAX_SPREAD),
            f"how much images of a class differ, {hits.NAME} only; 0 is the paper's table as it is",
            f"{hits.SPREAD:g}",
        ),
        "out": _OUT,
    },
    make,
    {"name": f"{', '.join(GENERATED)}, the sets that are generated"},
)
UNPACK = Command(
    "data unpack",
    "Puts the images of a set in place from a tar or zip in YOLO layout; of deeppcb-ref its known-good pictures, which "
    "are the images of such an archive.",
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
TDA = Command(
    "data tda",
    "Copies a classification set whose training images have records of hits, with more such images: drawn, with their "
    "records, from the statistics of each class. What is not for training is copied as it is.",
    {
        "data": Option(text, f"folder of the set, or {hits.NAME}"),
        "add": Option(whole(1), "how many images to add", "one for each training image"),
        "seed": Option(whole(0, MAX_SEED), "of what is drawn", str(tda.SEED)),
        "spread": Option(
            one_of(tda.SPREADS),
            "between: images of a class differ as the real ones do; none: they do not",
            tda.SPREADS[0],
        ),
        "out": Option(text, "folder to make"),
    },
    add_hits,
    {"data": "the folder of a classification set as first argument"},
)
