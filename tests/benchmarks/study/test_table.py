"""The CSV of a study: a damaged or unfinished row is never taken for a result."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def test_damaged_row(
    host_class: type[Any], write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    """An unfinished row is refused and, once deleted, written again from the cell's folder without a training."""
    run(write())
    table = tmp_path / "out" / "tiny.csv"
    whole = table.read_text()
    table.write_text(whole[:-30])
    host = host_class()
    code, _, err = run(write(), host)
    assert (code, host.commands, len(err.splitlines())) == (1, [], 1)
    assert "tiny.csv, line 5: expected 20 fields and an end of line" in err
    table.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    assert run(write(), host)[0] == 0
    assert (table.read_text(), host.commands) == (whole, [])
    table.write_text(whole.replace(",64,", ",sixty,", 1))
    assert "line 2: expected a number as imgsz, got sixty" in run(write(), host)[2]
    table.write_text("a,b\n")
    assert "expected a first line with the columns study,cell" in run(write(), host)[2]
    table.write_text(whole + whole.splitlines(keepends=True)[-1])
    assert "expected one row per cell; delete all but one, got boards-k2-1 twice" in run(write(), host)[2]


def test_full_disk(study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that does not fit is not written at all."""
    table = sys.modules["study_table"]
    file, row = tmp_path / "t.csv", {**dict.fromkeys(table.COLUMNS, 1), "study": "s"}
    table.append_row(file, row)
    before, write = file.read_text(), table.os.write
    monkeypatch.setattr(table.os, "write", lambda handle, content: write(handle, content[:5]))
    with pytest.raises(OSError, match="no space left"):
        table.append_row(file, row)
    assert file.read_text() == before
