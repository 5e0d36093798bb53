"""Draw a set of printed circuit boards with six copper defects and exact boxes.

The set is the default of the demo and the tests: nothing to fetch, the same for everyone. Board i of a split depends on
the seed, the split and i only, so a larger set contains a smaller one. pcb-demo-ref is the same set with a known-good
board of the same product beside each.
"""

from __future__ import annotations

import copy
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
from ultra_dsmoe.data.boards.layout import Layout, lay_out
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
NAME, WITH_REFERENCES = "pcb-demo", "pcb-demo-ref"
REFERENCES = "references"  # folder of the known-good boards
GOLDEN = 1  # what is behind the numbers of a board in the seed of its known-good one


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
    rng, layout, copper, defects = _draw(index, split, seed, size)
    return Board(photograph(rng, layout, copper), layout.copper, copper, defects)


def draw_pair(index: int, *, split: str = "train", seed: int = SEED, size: int = SIZE) -> tuple[Board, np.ndarray]:
    """Draw one board and a known-good one of the same product, under the same camera and light.

    Args:
        index: Number of the board in its split, from 0.
        split: "train" or "val".
        seed: Seed of the set.
        size: Side of the square image in pixels.

    Returns:
        The board, as `draw_board` returns it, and the image of the other: no defect, up to 3 px elsewhere, with
        texture, exposure and noise of its own.
    """
    rng, layout, copper, defects = _draw(index, split, seed, size)
    again = np.random.default_rng([seed, MADE.index(split), index, GOLDEN])
    golden = photograph(copy.deepcopy(rng), layout, layout.copper, again)
    return Board(photograph(rng, layout, copper), layout.copper, copper, defects), golden


def _draw(index: int, split: str, seed: int, size: int) -> tuple[np.random.Generator, Layout, np.ndarray, list[Defect]]:
    """Draw a board up to its photograph: the random numbers that come next, layout, copper and defects."""
    rng = np.random.default_rng([seed, MADE.index(split), index])
    layout = lay_out(rng, size)
    count = 0 if index % SOUND_EVERY == SOUND_EVERY - 1 else int(rng.choice(COUNTS))
    # Walk through the classes from board to board, so that each is equally frequent and a small set has all of them.
    kinds = [(index * 3 + i) % len(CLASSES) for i in range(count)]
    return rng, layout, *add_defects(rng, layout, kinds)


def generate(
    root: str | Path,
    train: int = TRAIN,
    val: int = VAL,
    seed: int = SEED,
    size: int = SIZE,
    progress: Callable[[Iterator[int], int], Iterator[int]] | None = None,
    references: bool = False,
) -> Path:
    """Write a set in YOLO layout; the folder appears only when it is complete.

    Args:
        root: Folder to make; it must not exist or be empty.
        train: Number of training boards.
        val: Number of validation boards.
        seed: Seed of the set; the same seed gives the same images and labels.
        size: Side of the images in pixels, from 96 to 4096. Below 224 they show a smaller piece of board.
        progress: Wraps the counter of boards, ``progress(counter, total)``, to show a bar.
        references: Whether a known-good board is drawn beside each; boards and labels are the same without.

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
        for kind in ("images", "labels", *([REFERENCES] if references else [])):
            for split in MADE:
                (partial / kind / split).mkdir(parents=True)
        counter = iter(range(len(boards)))
        for i in progress(counter, len(boards)) if progress else counter:
            _write_board(partial, *boards[i], seed, size, references)
        call = f"generate(train={train}, val={val}, seed={seed}, size={size}{', references=True' * references})"
        _write_yaml(partial / "data.yaml", WITH_REFERENCES if references else NAME, call)
    return root / "data.yaml"


def _write_board(folder: Path, split: str, index: int, seed: int, size: int, references: bool) -> None:
    """Write the image and the label file of one board, and the image of its known-good one."""
    name = f"board_{index:05d}"
    if references:
        board, golden = draw_pair(index, split=split, seed=seed, size=size)
        _write_image(folder / REFERENCES / split / f"{name}.jpg", golden)
    else:
        board = draw_board(index, split=split, seed=seed, size=size)
    _write_image(folder / "images" / split / f"{name}.jpg", board.image)
    lines = board.label_lines()
    label = folder / "labels" / split / f"{name}.txt"
    label.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_image(file: Path, pixels: np.ndarray) -> None:
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    file.write_bytes(encoded.tobytes())  # not cv2.imwrite, which returns False instead of raising on a full disk


def _write_yaml(file: Path, name: str, call: str) -> None:
    """Write the set's own data YAML: the packaged one, but for the place."""
    splits = {split: f"images/{split}" for split in MADE}
    note = f"Generated by ultra_dsmoe.data.boards.demo.{call}"
    file.write_text(packaged.yaml_beside(packaged.load(name), splits, note), encoding="utf-8")


def provide(data: dict[str, Any], references: bool = False) -> None:
    """Generate the packaged set where the host looks for it; called by the ``download`` line of pcb-demo.yaml.

    Args:
        data: The host's data dictionary, with ``path`` resolved.
        references: Whether with known-good boards, as pcb-demo-ref.yaml asks.

    Raises:
        DataError: If the folder is there but is not the set.
    """
    from ultralytics.utils import LOGGER, TQDM  # late: drawing boards needs no host

    root, name = Path(data["path"]), WITH_REFERENCES if references else NAME
    LOGGER.info(f"{name}: drawing {TRAIN + VAL} boards into {root}")
    generate(
        root, progress=lambda counter, total: iter(TQDM(counter, total=total, desc="boards")), references=references
    )
    LOGGER.info(f"{name}: done, {TRAIN} training and {VAL} validation boards of {SIZE} px in {root}")
