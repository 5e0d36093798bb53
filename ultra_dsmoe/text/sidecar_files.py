"""Files that tell of images: one ``.json`` beside an image, one ``texts.csv`` for a set; reading and checking them."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ultra_dsmoe.checks import is_number
from ultra_dsmoe.errors import DataError, nearest
from ultra_dsmoe.text.providers.base import TEXTS

LOGGER = logging.getLogger("ultra_dsmoe.text")
TABLE = "texts.csv"
TRAIN = "train"  # the folder by which the root of a data set is known
RECORDS = "records"  # folder beside it with pictures of the records: same folders and names as the images
IMAGE = "image"  # column with an image's path from the root
KEYS = (*TEXTS, "record", "record_image")
TELLTALES = frozenset(
    f"{word}{end}" for word in ("class", "label", "category", "target") for end in ("", "_id", "_name")
)


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return what a sidecar holds.

    Raises:
        DataError: If it cannot be read or is no mapping.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as e:  # the second: no JSON, or no text
        raise DataError(str(path), "a JSON file {vlm, llm, record}", str(e)) from e
    if not isinstance(content, dict):
        raise DataError(str(path), "a mapping {vlm, llm, record}", f"a {type(content).__name__}")
    return content


def checked(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return those entries of a sidecar that say something; other programs' keys are passed over.

    Raises:
        DataError: If an entry is of the wrong kind, or a key is spelled almost like one of ours.
    """
    for key in content:
        near = nearest(key, KEYS) if key not in KEYS else None
        if near is not None and near not in content:
            raise DataError(str(path), f"keys out of {', '.join(KEYS)} (did you mean '{near}'?)", key)
    found: dict[str, Any] = {}
    for key in (*TEXTS, "record_image"):
        value = content.get(key)
        if value is not None and not isinstance(value, str):
            raise DataError(f"{path}: {key}", "a text", value)
        if value and value.strip():
            found[key] = value.strip()
    record = as_record(f"{path}: record", content.get("record"))
    return found if record is None else {**found, "record": record}


def as_record(source: str, record: Any) -> dict[str, float] | None:
    """Return a record as plain numbers, None where it is empty.

    Raises:
        DataError: If it is no mapping of names to finite numbers, or names the class.
    """
    if record is None or record == {}:
        return None
    if not isinstance(record, Mapping):
        raise DataError(source, "a mapping of names to numbers", record)
    for name, value in record.items():
        if not isinstance(name, str) or not name.strip():
            raise DataError(source, "names that are texts", name)
        if name.strip().lower() in TELLTALES:
            raise DataError(source, "recorded numbers, without what the class is", name)
        if not is_number(value):
            raise DataError(f"{source} {name}", "a finite number", value)
    return {name.strip(): float(value) for name, value in record.items()}


def record_picture(image: Path, given: Mapping[str, Any]) -> Path:
    """Return where the picture of an image's record is.

    Args:
        image: Image file.
        given: Its sidecar; ``record_image`` there is a path from the sidecar's folder.

    Raises:
        DataError: If there is none.
    """
    root = set_root(image)
    if "record_image" in given:
        found = [image.parent / given["record_image"]]
    elif root is not None:
        found = sorted((root / RECORDS / image.absolute().relative_to(root).parent).glob(f"{_literal(image.stem)}.*"))
    else:
        found = []
    place = next((path for path in found if path.is_file()), None)
    if place is None:
        need = f"a record, or a picture of it (record_image in the sidecar, or under {RECORDS}/ beside {TRAIN}/)"
        raise DataError(str(image), need, f"no {found[0]}" if found else "neither")
    return place


def pixels(path: Path, content: bytes) -> np.ndarray:
    """Return an image file's pixels, RGB uint8 [H, W, 3].

    Raises:
        DataError: If it is no image.
    """
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if decoded is None:
        raise DataError(str(path), "an image that can be read", "another file")
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def content_of(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as e:
        raise DataError(str(path), "an image that can be read", e.strerror or str(e)) from e


class Pictures:
    """The pixels of image files, read anew each time they are gone through: a training half need not fit in memory.

    Args:
        paths: Image files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield RGB uint8 images."""
        return (pixels(path, content_of(path)) for path in self.paths)


def set_root(image: Path) -> Path | None:
    """Return the folder above an image that holds ``train/``, the outermost that has a table where one has."""
    roots = [folder for folder in image.absolute().parents if (folder / TRAIN).is_dir()]
    return next((root for root in roots if (root / TABLE).is_file()), roots[0] if roots else None)


@dataclass
class Table:
    """The rows of a ``texts.csv``.

    Attributes:
        path: The file.
        rows: By the image's path from the root, what it says: as a sidecar's checked content.
    """

    path: Path
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> Table:
        """Read the table of a data set; an empty one where there is none.

        Raises:
            DataError: If it cannot be read, lacks the column ``image``, names an image or a column twice, or a number
                is none.
        """
        table = cls(root / TABLE)
        if not table.path.is_file():
            return table
        try:
            with table.path.open(encoding="utf-8-sig", newline="") as stream:
                reader = csv.reader(stream)
                columns = [name.strip() for name in next(reader, [])]
                table._check_columns(columns)
                for cells in reader:
                    if any(cell.strip() for cell in cells):
                        table._add(columns, cells, reader.line_num)
        except (OSError, UnicodeDecodeError, csv.Error) as e:
            raise DataError(str(table.path), "a table with commas in UTF-8", str(e)) from e
        strays = [name for name in table.rows if not (root / name).is_file()]
        if strays:
            LOGGER.warning(
                "texts: %s names %d images that are not there, such as %s", table.path, len(strays), strays[0]
            )
        return table

    def of(self, image: Path) -> dict[str, Any]:
        """Return what the table says of an image below its root."""
        return self.rows.get(image.absolute().relative_to(self.path.parent).as_posix(), {})

    def _check_columns(self, columns: Sequence[str]) -> None:
        """Refuse a head without ``image``, or with a column twice."""
        if IMAGE not in columns:
            raise DataError(str(self.path), f"a column {IMAGE}", ", ".join(columns) or "an empty file")
        twice = next((name for name in columns if columns.count(name) > 1), None)
        if twice is not None:
            raise DataError(str(self.path), "each column once", f"{twice!r} twice")

    def _add(self, columns: Sequence[str], cells: Sequence[str], line: int) -> None:
        """Take one row."""
        where = f"{self.path} line {line}"
        if len(cells) != len(columns):
            raise DataError(where, f"{len(columns)} cells", f"{len(cells)}")
        row = {name: cell.strip() for name, cell in zip(columns, cells, strict=True) if cell.strip()}
        image = Path(row.pop(IMAGE, "").replace("\\", "/")).as_posix()
        if image == ".":
            raise DataError(where, "the path of an image", "none")
        if image in self.rows:
            raise DataError(where, "each image once", f"{image} twice")
        texts = {key: row.pop(key) for key in TEXTS if key in row}
        record = as_record(where, {name: _number(f"{where}: {name}", cell) for name, cell in row.items()})
        self.rows[image] = texts if record is None else {**texts, "record": record}


def _number(source: str, cell: str) -> float:
    """Return a cell as a number."""
    try:
        return float(cell)
    except ValueError as e:
        raise DataError(source, "a number", cell) from e


def _literal(name: str) -> str:
    """Return a name as a pattern that matches nothing else."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
