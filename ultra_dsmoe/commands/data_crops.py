"""``dsmoe-yolo data crops``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ultra_dsmoe.commands.arguments import DATA
from ultra_dsmoe.constants import MAX_SEED, SPLITS
from ultra_dsmoe.data import crops
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.parsing import Command, Given, Option, number, text, whole


def run(options: Given) -> int:
    """Cut the boxes of a set out, and say what came of it."""
    if "out" not in options:
        raise ConfigError("out", "a folder to make", "none")
    how = {key: options[key] for key in ("margin", "size", "background", "seed", "limit") if key in options}
    made = crops.crop_set(options["data"], options["out"], **how, progress=_bar)
    for split, counts in made.counts.items():
        print(f"{split}: {', '.join(f'{n} {kind}' for kind, n in sorted(counts.items()))}")
    print(f"crops are in {made.root}; train with: yolo classify train data={made.root}")
    for note in cautions(made):
        print(f"caution: {note}")
    return 0


def cautions(made: crops.Crops) -> Iterator[str]:
    """Yield what a new set lacks."""
    kinds = set().union(*made.counts.values())
    for split in SPLITS[:2]:
        if absent := kinds - set(made.counts.get(split, ())):
            yield f"no {split} image shows {', '.join(sorted(absent))}"
    if made.lacking:
        yield f"{made.lacking} crops of the background found no place beside the boxes"


def _bar(images: Iterator[Any], total: int) -> Iterator[Any]:
    """Show a bar while images are cut."""
    from ultralytics.utils import TQDM  # late, as everywhere: help needs no host

    return iter(TQDM(images, total=total, desc="images"))


COMMAND = Command(
    "data crops",
    f"""Makes a classification set of a detection set: each box with what is around it is an image in the folder of its
class, and places without a box, those of most contrast, are the class {crops.BACKGROUND}. Splits stay as they are. A
JSON file beside each image has the numbers of its box and where it was cut.""",
    {
        "data": Option(text, "data YAML of the detection set; polygons count as boxes"),
        "out": Option(text, "folder to make"),
        "margin": Option(number(0, crops.MOST), "shown around a box, share of its longer side", str(crops.MARGIN)),
        "size": Option(whole(0, crops.MAX_SIDE), "side of the images in pixels; 0: each as large as its crop", "0"),
        "background": Option(number(0, crops.MOST), "places without a box for each box", str(crops.SHARE)),
        "seed": Option(whole(0, MAX_SEED), "of these places", str(crops.SEED)),
        "limit": Option(
            whole(0), "most crops of a class in train, and of others of its images in val; val is then test", "0, all"
        ),
    },
    run,
    DATA,
)
