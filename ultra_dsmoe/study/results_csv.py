"""The CSV of a study: one row per finished run, added in one write, read back with care."""

from __future__ import annotations

import csv
import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ultra_dsmoe.errors import DataError
from ultra_dsmoe.files import FULL

TEXTS = ("study", "cell", "model", "data", "settings_hash", "data_hash", "prompt_hash", "ultralytics", "torch",
         "ultra_dsmoe", "commit", "per_class_AP")  # fmt: skip
WHOLE = ("seed", "epochs", "imgsz")
NUMBERS = ("mAP50", "mAP50-95", "precision", "recall", "seconds")
COLUMNS = ("study", "cell", "model", "data", *WHOLE, *NUMBERS, "settings_hash", "data_hash", "prompt_hash",
           "ultralytics", "torch", "ultra_dsmoe", "commit", "per_class_AP")  # fmt: skip
HEADER = f"{','.join(COLUMNS)}\n"


@contextmanager
def disk_full_errors(place: Path, what: str) -> Iterator[None]:
    """Say of a full disk in one line where there was no room for what.

    Raises:
        DataError: If the disk is full.
    """
    try:
        yield
    except OSError as e:
        if e.errno not in FULL:
            raise
        raise DataError(str(place), f"space for {what}", os.strerror(e.errno)) from e


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows, numbers as numbers; none without a file, or where its header was all that a full disk held.

    Raises:
        DataError: If a line is unfinished or damaged; names it.
    """
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as f:
        lines = f.read().splitlines(keepends=True)
    if _is_unfinished_header("".join(lines)):
        return []
    if next(csv.reader(lines[:1])) != list(COLUMNS):
        raise DataError(str(file), f"a first line with the columns {','.join(COLUMNS)}", lines[0].strip())
    return [_row(file, i, line) for i, line in enumerate(lines[1:], 2)]


def _row(file: Path, number: int, line: str) -> dict[str, Any]:
    where = f"{file}, line {number}"
    fields = next(csv.reader([line]), [])
    if len(fields) != len(COLUMNS) or not line.endswith("\n"):
        wanted = f"{len(COLUMNS)} fields and an end of line (delete the line: its cell keeps its result)"
        raise DataError(where, wanted, f"{len(fields)}: {line.strip()[:60]}")
    row: dict[str, Any] = dict(zip(COLUMNS, fields, strict=True))
    for column in (*WHOLE, *NUMBERS):
        try:
            row[column] = int(row[column]) if column in WHOLE else float(row[column])
        except ValueError as e:
            raise DataError(where, f"a number as {column}", str(row[column])) from e
    return row


def _is_unfinished_header(content: str) -> bool:
    """Whether there is nothing yet, or no more than a part of the first line."""
    return len(content) < len(HEADER) and HEADER.startswith(content)


def append_row(file: Path, row: dict[str, Any]) -> None:
    """Add a row in one write that reaches the disk; the file starts with its header at once.

    Raises:
        DataError: If the disk is full; the file then has the rows that it had before.
    """
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerow(row)
    with disk_full_errors(file, f"the row of {row['cell']}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            before = os.fstat(handle).st_size
            if _is_unfinished_header(os.read(handle, len(HEADER)).decode(errors="replace")):
                os.ftruncate(handle, before := 0)
            _write(handle, (text.getvalue() if before else HEADER + text.getvalue()).encode(), before)
        finally:
            os.close(handle)


def _write(handle: int, content: bytes, before: int) -> None:
    """Write all of it, or leave a file of the length that it had before."""
    try:
        if os.write(handle, content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    except BaseException:  # also where the user stops the study just now: the cell keeps its result
        os.ftruncate(handle, before)
        raise
