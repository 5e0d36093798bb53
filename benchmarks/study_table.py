"""The CSV of a study: one row per finished run, added in one write, read back with care."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

from ultra_dsmoe.errors import DataError

TEXTS = ("study", "cell", "model", "data", "settings_hash", "data_hash", "prompt_hash", "ultralytics", "torch",
         "ultra_dsmoe", "commit", "per_class_AP")  # fmt: skip
WHOLE = ("seed", "epochs", "imgsz")
NUMBERS = ("mAP50", "mAP50-95", "precision", "recall", "seconds")
COLUMNS = ("study", "cell", "model", "data", *WHOLE, *NUMBERS, "settings_hash", "data_hash", "prompt_hash",
           "ultralytics", "torch", "ultra_dsmoe", "commit", "per_class_AP")  # fmt: skip


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows, numbers as numbers; none without a file.

    Raises:
        DataError: If a line is unfinished or damaged; names it.
    """
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as f:
        lines = f.read().splitlines(keepends=True)
    if not lines or next(csv.reader(lines[:1])) != list(COLUMNS):
        raise DataError(str(file), f"a first line with the columns {','.join(COLUMNS)}", (lines or ["none"])[0].strip())
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


def append_row(file: Path, row: dict[str, Any]) -> None:
    """Add a row in one write that reaches the disk; the file starts with its header at once.

    Raises:
        OSError: If the disk is full; the file is then as long as before.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if not file.exists() or not file.stat().st_size:
        table.writeheader()
    table.writerow(row)
    content = text.getvalue().encode()
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        before = os.fstat(handle).st_size
        if os.write(handle, content) != len(content):  # the disk is full
            os.ftruncate(handle, before)
            raise OSError(f"{file}: no space left for a row")
        os.fsync(handle)
    finally:
        os.close(handle)
