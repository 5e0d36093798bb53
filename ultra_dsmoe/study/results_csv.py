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

from .task import DETECT, Detection

WHOLE = ("seed", "epochs", "imgsz")
MADE = ("ultralytics", "torch", "ultra_dsmoe", "commit")


def columns(task: Detection = DETECT) -> tuple[str, ...]:
    """Return the columns of a study's table."""
    return ("study", "cell", "model", "data", *WHOLE, *task.numbers, "seconds", *task.hashes, *MADE, *task.per_class)


def header(task: Detection = DETECT) -> str:
    """Return the first line of the table."""
    return f"{','.join(columns(task))}\n"


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


def read_rows(file: Path, task: Detection = DETECT) -> list[dict[str, Any]]:
    """Return the rows, numbers as numbers; none without a file, or where its header was all that a full disk held.

    Args:
        file: The table.
        task: Of the study.

    Raises:
        DataError: If a line is unfinished or damaged; names it.
    """
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as f:
        lines = f.read().splitlines(keepends=True)
    if _is_unfinished_header("".join(lines), task):
        return []
    if next(csv.reader(lines[:1])) != list(columns(task)):
        raise DataError(str(file), f"a first line with the columns {','.join(columns(task))}", lines[0].strip())
    return [_row(file, i, line, task) for i, line in enumerate(lines[1:], 2)]


def _row(file: Path, number: int, line: str, task: Detection) -> dict[str, Any]:
    where, heads = f"{file}, line {number}", columns(task)
    fields = next(csv.reader([line]), [])
    if len(fields) != len(heads) or not line.endswith("\n"):
        wanted = f"{len(heads)} fields and an end of line (delete the line: its cell keeps its result)"
        raise DataError(where, wanted, f"{len(fields)}: {line.strip()[:60]}")
    row: dict[str, Any] = dict(zip(heads, fields, strict=True))
    for column in (*WHOLE, *task.numbers, "seconds"):
        try:
            row[column] = int(row[column]) if column in WHOLE else float(row[column])
        except ValueError as e:
            raise DataError(where, f"a number as {column}", str(row[column])) from e
    return row


def _is_unfinished_header(content: str, task: Detection) -> bool:
    """Whether there is nothing yet, or no more than a part of the first line."""
    head = header(task)
    return len(content) < len(head) and head.startswith(content)


def append_row(file: Path, row: dict[str, Any], task: Detection = DETECT) -> None:
    """Add a row in one write that reaches the disk; the file starts with its header at once.

    Args:
        file: The table.
        row: By its columns.
        task: Of the study.

    Raises:
        DataError: If the disk is full; the file then has the rows that it had before.
    """
    text, head = io.StringIO(), header(task)
    csv.DictWriter(text, columns(task), lineterminator="\n").writerow(row)
    with disk_full_errors(file, f"the row of {row['cell']}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            before = os.fstat(handle).st_size
            if _is_unfinished_header(os.read(handle, len(head)).decode(errors="replace"), task):
                os.ftruncate(handle, before := 0)
            _write(handle, (text.getvalue() if before else head + text.getvalue()).encode(), before)
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
