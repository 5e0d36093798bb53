"""Write what a study found: a Markdown table with the verdicts, and a picture of the means with their intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ultra_dsmoe.data.groups import group_numbers
from ultra_dsmoe.errors import DataError
from ultra_dsmoe.explain.plots.canvas import as_png, canvas
from ultra_dsmoe.files import write_files

from .knockouts import knockout_table
from .plan import Plan
from .store import KEPT, Kept, read_kept
from .task import DETECT, Detection, by_class
from .verdict import BOOT, LEVEL, Comparison, DataSet, Estimate, judge

WIDTH, ROW, REST = 4.6, 0.55, 1.5  # inches: of a panel, of a model's line, of title and axis
COLOURS = ("#0072b2", "#d55e00")  # told apart by colour-blind eyes too
APART, BELOW = 0.16, 0.12  # in lines: half the distance of the two measures' marks; single trainings below their mean

CONTROLS = (
    "Controls are no trainings of nets: classifiers of scikit-learn, fitted on the training half. Those with one seed "
    "are the same for all, and stand beside every seed of the others."
)

Means = dict[tuple[str, str], Estimate]


def write_report(plan: Plan, rows: Sequence[dict[str, Any]], out: Path) -> list[str]:
    """Judge what is finished and write ``NAME.md`` and ``NAME.png``.

    Args:
        plan: The study.
        rows: Its finished runs.
        out: Where the files go, and what was kept of the runs is.

    Returns:
        Lines to print: the verdicts, and what is missing.

    Raises:
        DataError: If two runs of a data set did not see the same images.
    """
    kept = _read(rows, out)
    seen = [r for r in rows if r["cell"] in kept]
    sets = _collect(plan, seen, kept)
    means, comparisons = judge(sets, plan.pairs())
    notes = [f"left out: {r['cell']}, since {KEPT}/{r['settings_hash']}.npz is gone or damaged" for r in rows
             if r["cell"] not in kept]  # fmt: skip
    notes += [f"not in the study: {', '.join(plan.absent)}, whose weights or data are not there"] if plan.absent else []
    undone = len(plan.cells()) - len(rows)
    notes += [f"unfinished: {undone} of {len(plan.cells())} runs are missing"] if undone else []
    if plan.knockouts:
        notes += [f"without knock-outs: {r['cell']} (to have them, delete its row)" for r in seen
                  if kept[r["cell"]].knockouts is None]  # fmt: skip
    least = {data.name: plan.task.unlearned(next(_runs(data))) for data in sets}
    notes += [f"{m} on {d} has learned next to nothing ({plan.task.measures[0]} below {least[d]:.3g}): "
              "verdicts on it say little" for (d, m), e in means.items() if e.mean[0] < least[d]]  # fmt: skip
    switched = knockout_table(plan, seen, kept) if plan.knockouts else None
    scored = [{**r, **plan.task.scored(kept[r["cell"]].stats)} for r in seen]
    text = markdown(plan, scored, means, comparisons, notes, switched)
    write_files(out, {f"{plan.name}.md": text.encode(), f"{plan.name}.png": draw(plan, seen, means)})
    return [f"{c.data}, {c.model} against {c.baseline}, {c.measure}: {c.verdict}" for c in comparisons] + notes


def _read(rows: Sequence[dict[str, Any]], out: Path) -> dict[str, Kept]:
    """Return what was kept, by cell, of the runs where it is there and whole."""
    kept = {}
    for row in rows:
        with suppress(DataError):
            kept[row["cell"]] = read_kept(out / KEPT / f"{row['settings_hash']}.npz")
    return kept


def _runs(data: DataSet) -> Iterator[Any]:
    """Yield what the runs on a data set saw."""
    yield from (run for by_seed in data.runs.values() for run in by_seed.values())


def _collect(plan: Plan, rows: Sequence[dict[str, Any]], kept: Mapping[str, Kept]) -> list[DataSet]:
    """Return the data sets that were trained on, each with its runs' matches."""
    sets, fixed = [], {m.name for m in plan.models if m.is_fixed}
    for data in plan.data:
        runs: dict[str, dict[int, Any]] = {}
        mine = [r for r in rows if r["data"] == data.name]
        seeds = {r["seed"] for r in mine}
        for row in mine:
            # What no seed changes stands beside every one of the others.
            own = seeds if row["model"] in fixed else [row["seed"]]
            runs.setdefault(row["model"], {}).update(dict.fromkeys(own, kept[row["cell"]].stats))
        if runs:
            files = next(iter(next(iter(runs.values())).values())).files
            sets.append(DataSet(data.name, runs, group_numbers(files, data.groups), plan.task))
    return sets


def markdown(
    plan: Plan,
    rows: Sequence[dict[str, Any]],
    means: Means,
    comparisons: Sequence[Comparison],
    notes: Sequence[str],
    switched: Sequence[Sequence[str]] | None = None,
) -> str:
    """Return the page: what was run, the means, the verdicts, how to read them."""
    lines = [f"# Study {plan.name}", ""]
    given = ", ".join(f"{k}={v}" for k, v in plan.overrides.items())
    tested = f"; validated on the {plan.split} half" if plan.split != "val" else ""
    trained = f"{_sizes(plan)}; seeds {', '.join(map(str, plan.seeds))}{f'; {given}' if given else ''}{tested}."
    lines += [trained, "", f"![means with intervals]({plan.name}.png)", ""]
    head = ["data", "model", *plan.task.measures, *plan.task.averaged, "seeds", "minutes"]
    table = [_mean_row(plan.task, d.name, m.name, rows, means) for d in plan.data for m in plan.models
             if (d.name, m.name) in means]  # fmt: skip
    lines += [*_table(head, table, left=2), "", *_classes(plan, rows)]
    if comparisons:
        lines += [f"Differences, in points (hundredths of {plan.task.unit}):", ""]
        head = ["data", "model", "against", "measure", "verdict", "difference", "p", "p (Holm)", "seeds"]
        table = [[c.data, c.model, c.baseline, c.measure, c.verdict, f"{c.difference:+.1f}", f"{c.p:.3f}",
                  f"{c.p_holm:.3f}" if c.seeds > 1 else "", str(c.seeds)] for c in comparisons]  # fmt: skip
        lines += [*_table(head, table, left=5), ""]
    if switched:
        lines += [f"Change of {plan.task.measures[0]}, in points, when one thing of the trained nets is switched off: "
                  "mean over trainings (lowest to highest), and how many of them need it (a point or more, interval "
                  "below zero):", "", *_table(switched[0], switched[1:], left=2), ""]  # fmt: skip
    lines += [f"- {note}" for note in [*notes, *_unseen(comparisons, plan.task), *_reading(plan, rows)]]
    return "\n".join(lines) + "\n"


def _sizes(plan: Plan) -> str:
    """Return how long, at which size and in which batches the data sets are trained on."""
    by_sizes: dict[str, list[str]] = {}
    for data in plan.data:
        text = "{epochs} epochs, {imgsz} px, batch {batch}".format(**plan.sizes_of(data))
        by_sizes.setdefault(text, []).append(data.name)
    if len(by_sizes) == 1:
        return next(iter(by_sizes))
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in by_sizes.items())


def _classes(plan: Plan, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the tables of a classifier's classes, one per data set: recall and F1 of each, means over the seeds."""
    if plan.task is DETECT:
        return []
    lines = ["Recall and F1 of each class, means over the trainings:", ""]
    for data in plan.data:
        table = []
        for model in (m.name for m in plan.models):
            if mine := [r for r in rows if (r["data"], r["model"]) == (data.name, model)]:
                recall, f1 = (by_class(mine, column) for column in plan.task.per_class)
                table.append([data.name, model, *(f"{recall[name]:.3f}, {f1[name]:.3f}" for name in recall)])
        if table:
            lines += [*_table(["data", "model", *data.names], table, left=2), ""]
    return lines


def _mean_row(task: Detection, data: str, model: str, rows: Sequence[dict[str, Any]], means: Means) -> list[str]:
    mine = [r for r in rows if (r["data"], r["model"]) == (data, model)]
    mean, low, high = means[data, model]
    cells = [f"{mean[i]:.3f} ({max(low[i], 0):.3f} to {min(high[i], 1):.3f})" for i in range(2)]
    average = {k: sum(r[k] for r in mine) / len(mine) for k in (*task.averaged, "seconds")}
    numbers = [*(f"{average[k]:.3f}" for k in task.averaged), str(len(mine))]
    return [data, model, *cells, *numbers, f"{average['seconds'] / 60:.1f}"]


def _unseen(comparisons: Sequence[Comparison], task: Detection = DETECT) -> list[str]:
    """Return what the study was too small to see: half the usual width of its intervals, by data set."""
    reach: dict[str, list[float]] = {}
    for c in comparisons:
        if c.measure == task.measures[0] and c.seeds > 1:
            reach.setdefault(c.data, []).append((c.high - c.low) / 2)
    first = task.measures[0]
    limits = ", ".join(f"about {np.median(half):.1f} points of {first} on {data}" for data, half in reach.items())
    return [f"Differences below {limits} would not have been seen (half the width of the intervals)."] if limits else []


def _reading(plan: Plan, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return how the numbers came about."""
    lines = [
        f"Intervals are of 95 %, from {BOOT} resamples of seeds and images; a difference is claimed where its interval "
        f"is clear of zero and its p, of at least {BOOT} swaps of images corrected for all lines, at most {LEVEL:g}."
    ]
    lines.append(plan.task.reading)
    if any(m.control for m in plan.models):
        lines.append(CONTROLS)
    if grouped := [d.name for d in plan.data if d.groups]:
        lines.append(f"Images of one board or tile were drawn together on {', '.join(grouped)}.")
    moved = {m.name for m in plan.models if not m.is_fixed}
    trained = [r for r in rows if r["model"] in moved]
    counts = [Counter(r["model"] for r in trained if r["data"] == d.name).values() for d in plan.data]
    if any(1 in c for c in counts):
        lines.append("One seed: its intervals do not know how much another training would differ.")
    if any(len(set(c)) > 1 for c in counts):
        lines.append("Means over unequal numbers of seeds do not compare; differences are over seeds that both have.")
    made = {", ".join([f"ultralytics {r['ultralytics']}", f"torch {r['torch']}", f"commit {r['commit'] or 'unknown'}"])
            for r in rows}  # fmt: skip
    return [*lines, *(f"Made with {m}." for m in sorted(made))]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Return a Markdown table whose first ``left`` columns stand to the left."""
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def draw(plan: Plan, rows: Sequence[dict[str, Any]], means: Means) -> bytes:
    """Return the picture as PNG: a panel per data set, a line per model, small dots for single trainings."""
    sets = [d.name for d in plan.data if any(d.name == data for data, _ in means)]
    size = (WIDTH * max(len(sets), 1) + 1, ROW * len(plan.models) + REST)
    figure = canvas(*size)
    panels = figure.subplots(1, max(len(sets), 1), squeeze=False)[0]
    for axes, data in zip(panels, sets, strict=False):
        _panel(axes, plan, data, rows, means)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.suptitle(f"{plan.name}; bars are 95 % intervals", fontsize=10)
    return as_png(figure)


def _panel(axes: Axes, plan: Plan, data: str, rows: Sequence[dict[str, Any]], means: Means) -> None:
    models = [m.name for m in plan.models]
    for i, (measure, colour) in enumerate(zip(plan.task.measures, COLOURS, strict=True)):
        shift = (2 * i - 1) * APART
        have = [(y + shift, means[data, m]) for y, m in enumerate(models) if (data, m) in means]
        mean = np.array([e.mean[i] for _, e in have])
        ends = np.array([[e.mean[i] - max(e.low[i], 0), min(e.high[i], 1) - e.mean[i]] for _, e in have]).T
        axes.errorbar(mean, [y for y, _ in have], xerr=ends, fmt="o", color=colour, capsize=3, label=measure)
        single = [(r[measure], models.index(r["model"]) + shift + BELOW) for r in rows if r["data"] == data]
        x, y = zip(*single, strict=True)
        axes.scatter(x, y, s=12, color=colour, alpha=0.5, linewidths=0)
    axes.set_yticks(range(len(models)), models)
    axes.set_ylim(len(models) - 0.5, -0.5)  # the first on top
    axes.set_xlim(left=0)
    axes.set_xlabel(plan.task.unit)
    axes.set_title(data, fontsize=10)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
