"""What is known of pairs without looking at them again: how the reference lies, how well, and whether it is the same.

Kept in memory and in a small file beside each folder of images, under the state of both files. Where nothing can be
written there, in memory alone.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ultra_dsmoe.data.reference.registration import Measured
from ultra_dsmoe.errors import PlaceError
from ultra_dsmoe.files import can_write, file_state, whole_file

FORMAT = 1
Stamp = list[Any]  # state of an image and its reference


class Prepared:
    """Measured pairs, by image."""

    def __init__(self, align: str, channels: int) -> None:
        """Begin with none.

        Args:
            align: How references are laid on their images.
            channels: Of the pictures.
        """
        self.settings = {"format": FORMAT, "align": align, "channels": channels}  # without which nothing of it holds
        self._rows: dict[str, dict[str, Any]] = {}  # by the image's path
        self._read: set[Path] = set()  # files that were looked at

    def get(self, image: Path, stamp: Stamp) -> Measured | None:
        """Return what is known of a pair in this state, None where nothing is."""
        row = self._rows.get(str(image))
        if row is None or row["stamp"] != stamp:
            return None
        return Measured(np.array(row["matrix"], np.float32), row["quality"], row["mismatch"])

    def put(self, image: Path, stamp: Stamp, known: Measured) -> None:
        """Remember a pair."""
        matrix = known.matrix.astype(float).tolist()
        self._rows[str(image)] = {
            "stamp": stamp, "matrix": matrix, "quality": known.quality, "mismatch": known.mismatch
        }  # fmt: skip

    def read(self, folder: Path) -> None:
        """Take in what is kept of the images of a folder; a file of other settings or a damaged one is none."""
        file = self._file(folder)
        if file in self._read:
            return
        self._read.add(file)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["settings"] == self.settings:
                self._rows.update({str(folder / name): row for name, row in content["rows"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return

    def write(self, folder: Path) -> bool:
        """Keep what is known of the images of a folder; return whether it could be written."""
        rows = {Path(image).name: row for image, row in self._rows.items() if Path(image).parent == folder}
        if not can_write(folder.absolute().parent):
            return False
        try:
            with whole_file(self._file(folder)) as part:
                part.write_text(json.dumps({"settings": self.settings, "rows": rows}), encoding="utf-8")
        except PlaceError:  # a full disk: a training can do without
            return False
        return True

    def _file(self, folder: Path) -> Path:
        folder = folder.absolute()  # the one of bare names has no name
        return folder.with_name(f"{folder.name}-{self.settings['align']}-{self.settings['channels']}.references.json")


def stamp(image: Path, reference: Path | np.ndarray) -> Stamp:
    """Return by what a pair that has changed is known: files by size and times, an array by its bytes."""
    if isinstance(reference, np.ndarray):
        other: list[Any] = [list(reference.shape), zlib.crc32(reference.tobytes())]
    else:
        other = [str(reference), *file_state(reference)]
    return [*file_state(image), *other]
