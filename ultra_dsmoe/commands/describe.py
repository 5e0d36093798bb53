"""``dsmoe-yolo text describe``: write what a provider says of the images of a classification set beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ultra_dsmoe.constants import SPLITS
from ultra_dsmoe.data import packaged
from ultra_dsmoe.errors import DataError
from ultra_dsmoe.files import can_write
from ultra_dsmoe.parsing import Command, Given, Option, several_of, text, yes_no
from ultra_dsmoe.text.sidecars import TextSource


def images_of(root: Path, split: str) -> list[Path]:
    """Return the images of one split, ``root/split/<class>/...``, in the order of their paths.

    Raises:
        DataError: If there are none.
    """
    from ultralytics.data.utils import IMG_FORMATS  # late: it imports torch

    found = sorted(p for p in (root / split).glob("*/**/*") if p.suffix[1:].lower() in IMG_FORMATS and p.is_file())
    if not found:
        raise DataError("data", f"a folder with images in {split}/<class>/", str(root))
    return found


def run(options: Given) -> int:
    """Fill the sidecars that lack a text."""
    source = TextSource.named(options.get("provider", "rules"))
    source.provider.prepare()  # first of all: a set may take hours to read
    root, overwrite = packaged.place_of(options["data"]), options.get("overwrite", False)
    train = images_of(root, "train")
    splits = options.get("split") or [split for split in SPLITS if (root / split).is_dir()]
    images = [image for split in splits for image in images_of(root, split)]
    todo = images if overwrite else [image for image in images if not source.has_both(image)]
    if todo:
        _require_writable(todo)
        print(f"learning from {len(train)} training images", flush=True)
        source.fit(train)
        for image in _bar(todo):
            source.fill(image, overwrite=overwrite)
    skipped = f", {len(images) - len(todo)} had both texts" if len(todo) < len(images) else ""
    print(f"{source.provider.id}: {len(todo)} of {len(images)} images described{skipped}")
    return 0


def _require_writable(images: Sequence[Path]) -> None:
    """Refuse folders that cannot be written before hours of work."""
    for folder in dict.fromkeys(image.parent for image in images):
        if not can_write(folder):
            raise DataError("data", "folders that can be written, for the texts beside the images", str(folder))


def _bar(images: Sequence[Path]) -> Iterator[Path]:
    """Show a bar while images are described."""
    from ultralytics.utils import TQDM

    return iter(TQDM(images, total=len(images), desc="describing"))


COMMAND = Command(
    "text describe",
    """Writes two texts of each image of a classification set into <name>.json beside it: vlm, of the picture, and llm,
of its record. A record that is there stays. What rules call usual is read off the training images alone; classes are
not shown to a provider. Images that have both texts are passed over, so that a stopped run goes on where it was.""",
    {
        "data": Option(
            text,
            "a classification set: its folder, with train/<class>/ and val/<class>/, or its name as for yolo",
        ),
        "provider": Option(
            text, "rules, vlm:<id or folder>, llm:<id or folder>, ocr, ocr:cnocr, or several joined by +", "rules"
        ),
        "split": Option(several_of(SPLITS), "splits to describe, separated by commas", "all that are there"),
        "overwrite": Option(yes_no, "whether to replace texts that are there", "False", flag=True),
    },
    run,
    {"data": "the folder of a classification set as first argument"},
)
