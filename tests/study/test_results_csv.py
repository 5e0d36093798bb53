"""The CSV of a study: a damaged or unfinished row is never taken for a result."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ultra_dsmoe.errors import DataError
from ultra_dsmoe.study import results_csv


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


@pytest.fixture
def row() -> dict[str, Any]:
    return {**dict.fromkeys(results_csv.columns(), 1), "study": "s", "cell": "c"}


@pytest.mark.parametrize("there", [0, 1], ids=["first row", "second row"])
@pytest.mark.parametrize("fit", [None, 5], ids=["nothing fits", "a part fits"])
def test_full_disk(
    row: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: int, fit: int | None
) -> None:
    """A row that does not fit is not written at all, and fits later."""
    file, write = tmp_path / "t.csv", os.write
    for _ in range(there):
        results_csv.append_row(file, row)
    before = file.read_text() if there else ""

    def full(handle: int, content: bytes) -> int:
        if fit is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, content[:fit])

    with monkeypatch.context() as patched:
        patched.setattr(results_csv.os, "write", full)
        with pytest.raises(DataError, match=r"t\.csv: expected space for the row of c, got No space left on device$"):
            results_csv.append_row(file, row)
    assert file.read_text() == before
    assert len(results_csv.read_rows(file)) == there
    results_csv.append_row(file, row)
    assert len(results_csv.read_rows(file)) == there + 1


def test_a_study_that_is_stopped_while_it_writes(
    row: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.csv"
    results_csv.append_row(file, row)
    before = file.read_bytes()

    def stop(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        results_csv.append_row(file, row)
    assert file.read_bytes() == before


def test_another_error_is_no_full_disk(row: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(IsADirectoryError):
        results_csv.append_row(tmp_path / "t.csv", row)


@pytest.mark.parametrize("length", [0, 1, 40, -1])
def test_unfinished_header(row: dict[str, Any], tmp_path: Path, length: int) -> None:
    """No rows, and the next one brings the header; with anything behind it the file is refused."""
    file = tmp_path / "t.csv"
    file.write_text(results_csv.header()[:length])
    assert results_csv.read_rows(file) == []
    results_csv.append_row(file, row)
    assert file.read_text().startswith(f"{results_csv.header()}s,c,")
    assert len(results_csv.read_rows(file)) == 1
    file.write_text(f"{results_csv.header()[:length]}\n1,2\n")
    with pytest.raises(DataError, match=r"expected a first line with the columns study|line 2: expected 20 fields"):
        results_csv.read_rows(file)
