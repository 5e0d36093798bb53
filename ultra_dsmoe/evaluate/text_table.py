"""Tables of this folder's commands: as printed and as comma-separated values."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def align_columns(table: list[list[str]]) -> str:
    """Return a table in columns of equal width.

    Args:
        table: Rows of cells, headings first; the first two columns and the last hold words, the others numbers.

    Returns:
        One line per row: words to the left, numbers to the right.
    """
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    numeric = range(2, len(widths) - 1)
    lines = [
        "  ".join(c.rjust(w) if i in numeric else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in table
    ]
    return "\n".join(line.rstrip() for line in lines)


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as comma-separated values, one line each."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
