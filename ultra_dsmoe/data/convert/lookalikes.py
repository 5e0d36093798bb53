"""Files that were taken for images, but look like masks of others: they would show a net the answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ultra_dsmoe.errors import DataError
from ultra_dsmoe.runtime.detections import read_image

FEW = 8  # gray levels that nearly all pixels of a mask have, with the smear of a JPEG around black and white
MOST = 0.97  # of the pixels (our choice: of the steel, board and tile images at hand none has as much)


def refuse_lookalikes(images: Sequence[Path]) -> None:
    """Refuse an image that has the name of another one, with an ending or in another folder, and looks like a mask.

    Args:
        images: Files that have no mask and are none by their names.

    Raises:
        DataError: For the first that is found; it tells how masks are named.
    """
    named: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        named[image.stem].append(image)
    for image in images:
        for other in (found for stem in _parts(image.stem) for found in named.get(stem, ()) if found != image):
            if _is_flat(image) and not _is_flat(other):
                expected = f"an image; it looks like a mask of {other}, and masks are told by {_mark(image, other)}"
                raise DataError(str(image), expected, f"a few gray levels, in the name of {other.name}")


def _mark(mask: Path, image: Path) -> str:
    """Return what would tell that a file is a mask: the end of its name, or a folder of its own."""
    if mask.stem != image.stem and mask.stem.startswith(image.stem):
        return f"marks={mask.stem.removeprefix(image.stem)}"
    own = [part for part in mask.parent.parts if part not in image.parent.parts]
    return f"marks={own[-1]}" if own else "an ending or a folder (marks=)"


def _parts(stem: str) -> list[str]:
    """Return the names of images that a mask of this name could be of: without an ending, or a beginning."""
    cuts = [i for i, letter in enumerate(stem) if not letter.isalnum()]
    return [stem, *(stem[:i] for i in cuts), *(stem[i + 1 :] for i in cuts)]


def _is_flat(file: Path) -> bool:
    """Whether nearly all pixels have one of a few gray levels."""
    levels = np.bincount(read_image(file, 1).ravel(), minlength=256)
    return bool(np.sort(levels)[-FEW:].sum() >= MOST * levels.sum())
