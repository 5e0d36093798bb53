"""What a second stage costs and what it saves: escapes and overkill, before and after it.

*Escape*: a labelled box that no shown box of its class matches. *Overkill*: a shown box that matches no labelled box of
its class. Shown is a box with at least the operating confidence. Boxes match as in the host's validation at IoU 0.5,
each labelled box with one box at most, so a second box on the same defect is overkill.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ultra_dsmoe.evaluate.text_table import csv_text

STAGES = ("before", "after")
HEADINGS = ("class", "labelled", *(f"{what}_{stage}" for what in ("escapes", "overkill") for stage in STAGES))
ALL = "all"  # the first row's name


class Tally:
    """Counts per class of a detector.

    Attributes:
        labelled: Labelled boxes, (nc,).
        escapes: Before and after the second stage, (2, nc).
        overkill: Before and after it, (2, nc).
    """

    def __init__(self, classes: int) -> None:
        """Begin with nothing counted."""
        self.labelled = np.zeros(classes, dtype=np.int64)
        self.escapes, self.overkill = (np.zeros((len(STAGES), classes), dtype=np.int64) for _ in range(2))

    def add(self, targets: np.ndarray, shown: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        """Count one image.

        Args:
            targets: Classes of its labelled boxes, (L,).
            shown: Before and after the second stage: classes of the shown boxes (N,), and which match, (N,) of bool.
        """
        labelled = self._counts(targets)
        self.labelled += labelled
        for stage, (classes, right) in enumerate(shown):
            self.escapes[stage] += labelled - self._counts(classes[right])
            self.overkill[stage] += self._counts(classes[~right])

    def _counts(self, classes: np.ndarray) -> np.ndarray:
        return np.bincount(np.asarray(classes, dtype=np.int64), minlength=len(self.labelled))

    def rows(self, names: Sequence[str]) -> list[tuple[str | int, ...]]:
        """Return `HEADINGS`' values: all classes together, then each class."""
        columns = np.stack([self.labelled, *self.escapes, *self.overkill])
        values = [columns.sum(1), *columns.T]
        return [(name, *row.tolist()) for name, row in zip([ALL, *names], values, strict=True)]

    def table(self, names: Sequence[str], verbose: bool = True) -> str:
        """Return a table in the width of the host's own.

        Args:
            names: Of the classes.
            verbose: Whether each class has a row, where it has anything to say.
        """
        lines = [f"{'':>22}{'':>11}{'Escapes':>22}{'Overkill':>22}"]
        lines.append(f"{'Class':>22}{'Labelled':>11}" + "".join(f"{stage:>11}" for stage in STAGES) * 2)
        rows = self.rows(names)
        told = [row for row in rows[1:] if verbose and any(row[1:]) and len(names) > 1]
        lines += [f"{name:>22}" + "".join(f"{value:>11}" for value in values) for name, *values in (rows[0], *told)]
        return "\n".join(lines)

    def csv(self, names: Sequence[str]) -> str:
        """Return all rows as comma-separated values."""
        return csv_text([HEADINGS, *self.rows(names)])
