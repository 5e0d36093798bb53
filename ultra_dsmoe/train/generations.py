"""Checkpoint files of a run: appear whole or not at all, one older kept, and changed bytes are noticed.

torch writes a checksum (CRC-32) beside every record of its archives and does not look at it when it reads. So a weight
that was changed on disk loads without a word; `flaw` looks.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path

from ultra_dsmoe.files import whole_file, whole_set

LAST, BEST = "last.pt", "best.pt"  # the host's names
PREVIOUS = "previous.pt"  # not last*.pt, among which the host looks for the newest run
SIDE = ".writing"
ARCHIVE, PICKLE = b"PK", b"\x80"  # how files of torch begin: today's, and those without checksums before torch 1.6

stripping_beside: ContextVar[bool] = ContextVar("stripping_beside", default=False)  # read where the plugin strips


def flaw(path: str | Path) -> str | None:
    """Return what is wrong with a checkpoint's bytes; None where they are what was written, or where nobody can say."""
    path = Path(path)
    if not path.is_file():
        return "missing"
    with path.open("rb") as file:
        head = file.read(len(ARCHIVE))
    if not head:
        return "empty"
    if head != ARCHIVE:
        return None if head.startswith(PICKLE) else "no checkpoint"
    if not zipfile.is_zipfile(path):
        return "cut short"
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(record.CRC for record in archive.infolist()):
                return None  # torch can be told to write no checksums
            changed = archive.testzip()
    except Exception as e:  # a changed bit in a header can lead to any error
        return f"damaged ({type(e).__name__})"
    return f"damaged (checksum of {changed.partition('/')[2]})" if changed else None


def beside(folder: Path) -> AbstractContextManager[Path]:
    """Give a folder for files of a run; best.pt takes its place before last.pt, which knows of the best."""
    return whole_set(folder, SIDE)


def keep(file: Path, name: Path) -> None:
    """Give a file a second name; a copy where the disk has no such thing."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copy2(file, name)


def forget_epochs(table: Path, epochs: int) -> None:
    """Take the rows behind the first ``epochs`` epochs out of a run's results, and what a killed process left of one.

    Args:
        table: The host's ``results.csv``; nothing happens where it is missing.
        epochs: Number of epochs that stand.
    """
    if not table.is_file():
        return
    written = table.read_text("utf-8")
    header, *lines = [line for line in written.splitlines(keepends=True) if line.endswith("\n")] or [""]
    rows = {int(found[1]): line for line in lines if (found := re.match(r"\s*(\d+)\s*,", line))}
    text = header + "".join(line for epoch, line in rows.items() if epoch <= epochs)
    if not text:
        table.unlink()  # the host writes a header into a new file only
    elif text != written:
        with whole_file(table) as part:
            part.write_text(text, "utf-8")
