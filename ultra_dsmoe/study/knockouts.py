"""What the parts of a study's trained nets are worth: the knock-outs of all cells in one table."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any

from ultra_dsmoe.evaluate.measures import column
from ultra_dsmoe.explain.catalogue import CONTROL, catalogue

from .plan import Plan
from .store import Kept

EARNS = "earns its place"  # the verdict of `ultra_dsmoe.explain.knockout`

Changes = dict[str, tuple[float, str]]


def read_changes(table: str, measure: str) -> Changes:
    """Return change of a measure in points and verdict per knock-out; none for a stock net."""
    change = f"{column(measure)}_change"
    rows = [r for r in csv.DictReader(table.splitlines()) if r[change]]
    return {r["knockout"]: (float(r[change]), r["verdict"]) for r in rows}


def knockout_table(plan: Plan, rows: Sequence[dict[str, Any]], kept: Mapping[str, Kept]) -> list[list[str]] | None:
    """Return the table, headings first: a line per data set and knock-out, a column per model that has any.

    Args:
        plan: The study.
        rows: Its finished runs.
        kept: What was kept of them, by cell.

    Returns:
        None where no net has anything to switch off.
    """
    found: dict[tuple[str, str], list[Changes]] = {}
    for row in rows:
        if changes := read_changes(kept[row["cell"]].knockouts or "", plan.task.measures[0]):
            found.setdefault((row["data"], row["model"]), []).append(changes)
    models = [m.name for m in plan.models if any(m.name == model for _, model in found)]
    table = [["data", "knock-out", *models]]
    for data in (d.name for d in plan.data):
        for name in (n for n in catalogue() if n != CONTROL):
            cells = [_cell([c[name] for c in found.get((data, m), []) if name in c]) for m in models]
            if any(cells):
                table.append([data, name, *cells])
    return table if len(table) > 1 else None


def _cell(outcomes: Sequence[tuple[float, str]]) -> str:
    if not outcomes:
        return ""
    changes = [change for change, _ in outcomes]
    earns = sum(verdict == EARNS for _, verdict in outcomes)
    mean, low, high = sum(changes) / len(changes), min(changes), max(changes)
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f}), {earns} of {len(outcomes)}"
