"""Draw a classification set of drill-hit patterns, with the record of each image in a sidecar beside it.

The default of what learns from images and texts: nothing to fetch, the same for everyone. Image i of a split depends on
the seed, the split, its number and the spread only, so a larger set contains a smaller one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from ultra_dsmoe.checks import number, whole
from ultra_dsmoe.constants import DRAWN_PIXELS, SPLITS
from ultra_dsmoe.data.hits import record
from ultra_dsmoe.data.hits.distribution import CLASSES, HITS, class_of_each, draw_normal, draw_points
from ultra_dsmoe.data.hits.draw import SIZE, draw
from ultra_dsmoe.errors import DataError
from ultra_dsmoe.files import whole_folder

NAME = "hits-demo"
TRAIN, VAL, TEST = 325, 130, 2000  # the paper's 455; on 130 test images, one run's standard error is .04
SEED, SPREAD, MAX_SPREAD = 42, 1.0, 3.0
MIN_SIZE, MAX_SIZE = DRAWN_PIXELS
PNG_LEVEL = 6  # 9 takes five times as long for 7 % less
PROOF = "generated.json"  # by which a finished set is known

Progress = Callable[[Iterator[int], int], Iterator[int]]


def draw_sample(index: int, kind: str, *, split: str = "train", seed: int = SEED, spread: float = SPREAD) -> np.ndarray:
    """Draw the hits of one image.

    Args:
        index: Number of the image in its split, from 0.
        kind: Name of its class.
        split: "train", "val" or "test".
        seed: Seed of the set.
        spread: Between the images of a class, as a multiple of ours; 0 gives the paper's table as it is.

    Returns:
        (N, 2), in units of the table.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    count = int(rng.integers(HITS[0], HITS[1] + 1))
    return draw_points(draw_normal(CLASSES[kind], rng, spread), count, rng)


def generate(
    root: str | Path,
    train: int = TRAIN,
    val: int = VAL,
    test: int = TEST,
    seed: int = SEED,
    size: int = SIZE,
    spread: float = SPREAD,
    progress: Progress | None = None,
) -> Path:
    """Write a set with a folder per class; the set's folder appears only when it is complete.

    Args:
        root: Folder to make; it must not exist or be empty.
        train: Number of training images. At least one per class in each split; the shares are the paper's.
        val: Number of validation images.
        test: Number of test images.
        seed: Seed of the set; the same seed gives the same files.
        size: Side of the images in pixels, from 96 to 4096.
        spread: Between the images of a class, as a multiple of ours; 0 gives the paper's table as it is.
        progress: Wraps the counter of images, ``progress(counter, total)``, to show a bar.

    Returns:
        The folder.

    Raises:
        DSMoEError: If a number is out of range or the folder is in use.
    """
    counts = {"train": train, "val": val, "test": test}
    for name, value, low, high in (
        *((split, count, len(CLASSES), math.inf) for split, count in counts.items()),
        ("seed", seed, 0, math.inf),
        ("size", size, MIN_SIZE, MAX_SIZE),
    ):
        whole(name, value, low, high, kind=DataError)
    spread = number("spread", spread, 0, MAX_SPREAD)
    root = Path(root).resolve()
    with whole_folder(root, PROOF) as partial:
        for folder in (partial / split / kind for split in SPLITS for kind in CLASSES):
            folder.mkdir(parents=True)
        images = [(split, *entry) for split in SPLITS for entry in enumerate(class_of_each(counts[split]))]
        counter = iter(range(len(images)))
        for i in progress(counter, len(images)) if progress else counter:
            split, index, kind = images[i]
            points = draw_sample(index, kind, split=split, seed=seed, spread=spread)
            # The name says nothing of the class: what describes an image may look at it.
            write_sample(partial / split / kind / f"hits_{index:05d}.png", points, size, record.measure(points))
        how = {"generator": NAME, **counts, "seed": seed, "size": size, "spread": spread}
        (partial / PROOF).write_text(json.dumps(how) + "\n", encoding="utf-8")
    return root


def write_sample(image: Path, points: np.ndarray, size: int, values: dict[str, float]) -> None:
    """Write the picture of some hits, and their record beside it."""
    encoded = cv2.imencode(".png", draw(points, size), [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])[1]
    image.write_bytes(encoded.tobytes())  # not cv2.imwrite, which returns False instead of raising on a full disk
    record.write(image, values)


def provide(folder: str | Path) -> Path:
    """Draw the set with its defaults where it is missing.

    Args:
        folder: Where it is looked for.

    Returns:
        The folder.

    Raises:
        DataError: If there is something else.
    """
    from ultralytics.utils import LOGGER, TQDM  # late: drawing hits needs no host

    root = Path(folder)
    if all((root / split).is_dir() for split in SPLITS):  # a copy of one's own, without the proof, will do
        return root
    LOGGER.info(f"{NAME}: drawing {TRAIN + VAL + TEST} images into {root}")
    generate(root, progress=lambda counter, total: iter(TQDM(counter, total=total, desc="images")))
    LOGGER.info(f"{NAME}: done, {TRAIN} training, {VAL} validation and {TEST} test images of {SIZE} px in {root}")
    return root
