"""Draw a set of printed circuit boards with six copper defects and exact boxes.

The set is the default of the demo and the tests: nothing to fetch, the same for everyone. Board i of a split depends on
the seed, the split and i only, so a larger set contains a smaller one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ultra_dsmoe.checks import whole
from ultra_dsmoe.constants import DRAWN_PIXELS, SPLITS
from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.boards.defects import CLASSES, Defect, add_defects
from ultra_dsmoe.data.boards.layout import lay_out
from ultra_dsmoe.data.boards.render import photograph
from ultra_dsmoe.errors import DataError
from ultra_dsmoe.files import whole_folder

TRAIN, VAL = 240, 60
SEED, SIZE = 42, 640
MIN_SIZE, MAX_SIZE = DRAWN_PIXELS
COUNTS = (5, 6, 7, 8, 9, 10)  # defects on a board; DeepPCB, same size of picture, has 3 to 12
SOUND_EVERY = 10  # every tenth board has no defect
JPEG_QUALITY = 92
MADE = SPLITS[:2]  # the splits of a generated set


@dataclass(frozen=True)
class Board:
    """One generated board.

    Attributes:
        image: uint8, BGR [size, size, 3] or grey [size, size].
        sound: Copper before the defects, uint8 0 or 1, [size, size].
        copper: Copper with the defects.
        defects: The defects with their boxes.
    """

    image: np.ndarray
    sound: np.ndarray
    copper: np.ndarray
    defects: list[Defect]

    def label_lines(self) -> list[str]:
        """Return the labels in YOLO format: class, centre x, centre y, width, height, all of the image's size."""
        lines, size = [], self.sound.shape[0]
        for defect in self.defects:
            x0, y0, x1, y1 = defect.box_xyxy_px
            values = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
            lines.append(" ".join([str(defect.kind), *(f"{v / size:.8f}" for v in values)]))
        return lines


def draw_board(index: int, *, split: str = "train", seed: int = SEED, size: int = SIZE) -> Board:
    """Draw one board.

    Args:
        index: Number of the board in its split, from 0.
        split: "train" or "val".
        seed: Seed of the set.
        size: Side of the square image in pixels.
    """
    rng = np.random.default_rng([seed, MADE.index(split), index])
    layout = lay_out(rng, size)
    count = 0 if index % SOUND_EVERY == SOUND_EVERY - 1 else int(rng.choice(COUNTS))
    # Walk through the classes from board to board, so that each is equally frequent and a small set has all of them.
    kinds = [(index * 3 + i) % len(CLASSES) for i in range(count)]
    copper, defects = add_defects(rng, layout, kinds)
    return Board(photograph(rng, layout, copper), layout.copper, copper, defects)


def generate(
    root: str | Path,
    train: int = TRAIN,
    val: int = VAL,
    seed: int = SEED,
    size: int = SIZE,
    progress: Callable[[Iterator[int], int], Iterator[int]] | None = None,
) -> Path:
    """Write a set in YOLO layout; the folder appears only when it is complete.

    Args:
        root: Folder to make; it must not exist or be empty.
        train: Number of training boards.
        val: Number of validation boards.
        seed: Seed of the set; the same seed gives the same images and labels.
        size: Side of the images in pixels, from 96 to 4096. Below 224 they show a smaller piece of board.
        progress: Wraps the counter of boards, ``progress(counter, total)``, to show a bar.

    Returns:
        The set's ``data.yaml``.

    Raises:
        DataError: If a number is out of range or the folder is in use.
    """
    for name, value, low, high in (
        ("train", train, 1, math.inf),
        ("val", val, 1, math.inf),
        ("seed", seed, 0, math.inf),
        ("size", size, MIN_SIZE, MAX_SIZE),
    ):
        whole(name, value, low, high, kind=DataError)
    root = Path(root).resolve()
    with whole_folder(root) as partial:
        boards = [(split, i) for split, count in zip(MADE, (train, val), strict=True) for i in range(count)]
        for split in MADE:
            (partial / "images" / split).mkdir(parents=True)
            (partial / "labels" / split).mkdir(parents=True)
        counter = iter(range(len(boards)))
        for i in progress(counter, len(boards)) if progress else counter:
            _write_board(partial, *boards[i], seed, size)
        _write_yaml(partial / "data.yaml", f"generate(train={train}, val={val}, seed={seed}, size={size})")
    return root / "data.yaml"


def _write_board(folder: Path, split: str, index: int, seed: int, size: int) -> None:
    """Write the image and the label file of one board."""
    board = draw_board(index, split=split, seed=seed, size=size)
    image = folder / "images" / split / f"board_{index:05d}.jpg"
    encoded = cv2.imencode(".jpg", board.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    image.write_bytes(encoded.tobytes())  # not cv2.imwrite, which returns False instead of raising on a full disk
    lines = board.label_lines()
    label = folder / "labels" / split / f"board_{index:05d}.txt"
    label.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_yaml(file: Path, call: str) -> None:
    """Write the set's own data YAML: the packaged one, but for the place."""
    splits = {split: f"images/{split}" for split in MADE}
    note = f"Generated by ultra_dsmoe.data.boards.demo.{call}"
    file.write_text(packaged.yaml_beside(packaged.load("pcb-demo"), splits, note), encoding="utf-8")


def provide(data: dict[str, Any]) -> None:
    """Generate the packaged set where the host looks for it; called by the ``download`` line of pcb-demo.yaml.

    Args:
        data: The host's data dictionary, with ``path`` resolved.

    Raises:
        DataError: If the folder is there but is not the set.
    """
    from ultralytics.utils import LOGGER, TQDM  # late: drawing boards needs no host

    root = Path(data["path"])
    LOGGER.info(f"pcb-demo: drawing {TRAIN + VAL} boards into {root}")
    generate(root, progress=lambda counter, total: iter(TQDM(counter, total=total, desc="boards")))
    LOGGER.info(f"pcb-demo: done, {TRAIN} training and {VAL} validation boards of {SIZE} px in {root}")
