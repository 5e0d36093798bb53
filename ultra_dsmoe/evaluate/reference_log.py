"""What became of the references of a run, picture by picture: rows of a CSV, warnings, and one line at the end."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from ultralytics.utils import LOGGER

from ultra_dsmoe.data.reference.places import SHOWN, named
from ultra_dsmoe.runtime.reference_entry import ABSENT, OK, UNREGISTERED, PictureReference

FILE = "reference.csv"  # in the run folder
COLUMNS = ("image", "reference", "state", "mismatch", "quality")


class ReferenceLog:
    """The references of one run.

    Attributes:
        limit: Mismatch above which a reference counts as that of another product.
    """

    def __init__(self, limit: float, file: Path | None = None) -> None:
        """Begin to count.

        Args:
            limit: See above.
            file: CSV to write as the run goes, None for none.
        """
        self.limit, self.file = limit, file
        self.counts = {OK: 0, ABSENT: 0, UNREGISTERED: 0}
        self.others: list[str] = []
        self._other_count = 0
        self._warned: set[str] = set()  # pictures, videos and streams whose last reference was wrong
        self._rows: list[tuple[Any, ...]] = []

    def add(self, image: str, reference: PictureReference) -> None:
        """Count a picture, and say so where its reference seems to be that of another product.

        Of the frames of one video or stream the first of several in a row is warned of, also where frames of others
        come in between.
        """
        self.counts[reference.state] += 1
        is_other = reference.is_other(self.limit)
        if is_other:
            self._other_count += 1
            if image not in self.others and len(self.others) <= SHOWN:
                self.others.append(image)
            if image not in self._warned:
                LOGGER.warning(f"{image}: {reference.note(self.limit)} ({reference.file or 'the reference'})")
            self._warned.add(image)
        else:
            self._warned.discard(image)
        if self.file is not None:
            numbers = ["" if v is None else f"{v:.4f}" for v in (reference.mismatch, reference.quality)]
            self._rows.append((image, reference.file or "", reference.state, *numbers))

    def write(self) -> None:
        """Append the rows since the last call to the file."""
        if self.file is None or not self._rows:
            return
        is_new = not self.file.is_file()
        with self.file.open("a", newline="", encoding="utf-8") as f:
            csv.writer(f, lineterminator="\n").writerows([*([COLUMNS] if is_new else []), *self._rows])
        self._rows = []

    def finish(self, verbose: bool = True) -> None:
        """Write what is left and print the counts; where something was wrong also if not asked for."""
        self.write()
        total = sum(self.counts.values())
        if not total:
            return
        parts = ", ".join(f"{count} {state}" for state, count in self.counts.items() if count)
        line = f"references of {total} images: {parts}"
        if self._other_count:
            names = named(Path(image).name for image in self.others)
            line += f"; {self._other_count} with a mismatch above {self.limit:.2f}, another product? ({names})"
        if self._other_count or total > self.counts[OK]:
            LOGGER.warning(line)
        elif verbose:
            LOGGER.info(line)
