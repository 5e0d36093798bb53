"""``dsmoe-yolo knockout``: evaluate a checkpoint with one thing switched off at a time.

A stage earns its place where switching it off costs accuracy on the images at hand, by more than the choice of those
images explains. Point values are the host's own; intervals come from a paired bootstrap over images: the same
resamples for the network as trained and with the thing off, so what is common to both cancels.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.explain import arguments
from ultra_dsmoe.explain.bootstrap import interval, mean_ap, replicates, resamples
from ultra_dsmoe.explain.catalogue import CONTROL, KNOCKOUTS, Knockout, applicable
from ultra_dsmoe.explain.evaluation import Evaluation, begin, write_files
from ultra_dsmoe.explain.record import Record, recording

KEYS = {**arguments.COMMON, "boot": arguments.whole(100, 100_000), "only": arguments.several_of(KNOCKOUTS)}
BOOT = 1000  # resamples; the ends of a 95 % interval then rest on 25 each (our choice)
WORTH = 1.0  # points of mAP50 that a stage must be worth, from the project's own criterion of usefulness
COLUMNS = ("mAP50", "mAP50-95")
USAGE = f"""usage: dsmoe-yolo knockout best.pt [data=...] [key=value ...]

Evaluates a DS-MoE checkpoint with one thing switched off at a time; prints a table and writes knockout.csv and
knockout.md.

  data    data YAML              default: the one the checkpoint was trained on
  imgsz   image size             default: as trained
  batch   images per batch       default: 16
  split   {"|".join(arguments.SPLITS)}         default: val
  device  cpu, 0, ...            default: the first GPU, or cpu
  seed    of resamples and of what is drawn at random, default: 0
  boot    bootstrap resamples    default: {BOOT}
  out     folder of the results  default: knockout/ in the checkpoint's run folder
  only    names from the list, separated by commas: {", ".join(KNOCKOUTS)}"""


@dataclass(frozen=True)
class Outcome:
    """What switching one thing off did, in points (hundredths of mAP).

    Attributes:
        name: Name of the knock-out.
        what: What was done.
        score: mAP50 and mAP50-95 with it off.
        change: Both, minus those of the network as trained: negative where it was worth something.
        ranges: 95 % intervals of both changes.
        verdict: See `verdict`.
    """

    name: str
    what: str
    score: tuple[float, float]
    change: tuple[float, float]
    ranges: tuple[tuple[float, float], tuple[float, float]]
    verdict: str


@dataclass(frozen=True)
class Report:
    """All outcomes with what they were measured on; ``base`` is mAP50 and mAP50-95 as trained, in points."""

    base: tuple[float, float]
    outcomes: list[Outcome]
    notes: list[str]


def verdict(change: float, low: float, high: float) -> str:
    """Judge a change of mAP50.

    Args:
        change: mAP50 with the thing off minus mAP50 as trained, in points.
        low: Lower end of its 95 % interval.
        high: Upper end.

    Returns:
        ``hurts`` (better without, interval above 0), ``earns its place`` (at least 1 point lost, interval below 0),
        ``unclear`` (at least 1 point lost, but the interval reaches 0), ``inert`` (less than 1 point lost).
    """
    if low > 0:
        return "hurts"
    if change > -WORTH:
        return "inert"
    return "earns its place" if high < 0 else "unclear"


def evaluate(
    evaluation: Evaluation,
    only: list[str] | None = None,
    boot: int = BOOT,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Run all knock-outs that apply.

    Args:
        evaluation: Checkpoint and data.
        only: Names out of `KNOCKOUTS`; all where omitted.
        boot: Bootstrap resamples.
        seed: Of resamples, random routes and random vectors.
        progress: Called with a line before every pass.

    Raises:
        ConfigError: If nothing that was asked for applies to the network.
    """
    fitting, notes = applicable(evaluation.net, only)
    if not fitting or (only is None and [k.name for k in fitting] == [CONTROL]):
        raise ConfigError("model", "a network with something to switch off", "; ".join(notes))
    record = Record()
    progress(f"0/{len(fitting)} as trained")
    base = evaluation.run(recording(evaluation.net, record))
    counts = resamples(len(base.conf), boot, seed)
    base_map, base_boot = mean_ap(base), replicates(base, counts)
    outcomes = []
    for i, knockout in enumerate(fitting, 1):
        progress(f"{i}/{len(fitting)} {knockout.name}")
        stats = evaluation.run(knockout.switch(evaluation.net, record, seed))
        assert stats.files == base.files, "the order of images changed between two passes"
        outcomes.append(_outcome(knockout, mean_ap(stats), base_map, replicates(stats, counts) - base_boot))
    control = next((o for o in outcomes if o.name == CONTROL), None)
    if control and any(control.change):
        notes.append(f"two equal passes differ by {control.change[0]:+.3f} points mAP50: noise of this device")
    notes.append(
        f"change: mAP with it off minus mAP as trained, in points; in brackets the 95 % interval of {boot} paired "
        f"bootstrap resamples of the {len(base.files)} images (seed {seed}); another training run differs by more"
    )
    return Report(_points(base_map), outcomes, notes)


def _outcome(knockout: Knockout, score: np.ndarray, base: np.ndarray, spread: np.ndarray) -> Outcome:
    change = _points(score - base)
    ranges = (interval(100 * spread[:, 0]), interval(100 * spread[:, 1]))
    judged = "control" if knockout.name == CONTROL else verdict(change[0], *ranges[0])
    return Outcome(knockout.name, knockout.what, _points(score), change, ranges, judged)


def _points(pair: np.ndarray) -> tuple[float, float]:
    return float(100 * pair[0]), float(100 * pair[1])


def cells(report: Report) -> list[list[str]]:
    """Return the table as text, headings first."""
    head = ["knock-out", "what is done", *(c for name in COLUMNS for c in (name, "change [95 %]")), "verdict"]
    rows = [["as trained", "nothing", f"{report.base[0]:.2f}", "", f"{report.base[1]:.2f}", "", ""]]
    for o in report.outcomes:
        pairs = zip(o.score, o.change, o.ranges, strict=True)
        numbers = [c for s, d, (low, high) in pairs for c in (f"{s:.2f}", f"{d:+.2f} [{low:+.2f}, {high:+.2f}]")]
        rows.append([o.name, o.what, *numbers, o.verdict])
    return [head, *rows]


def aligned(table: list[list[str]]) -> str:
    """Return a table in columns of equal width: words to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    numeric = range(2, len(widths) - 1)
    lines = [
        "  ".join(c.rjust(w) if i in numeric else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in table
    ]
    return "\n".join(line.rstrip() for line in lines)


def markdown(report: Report, command: str) -> str:
    """Return the report as a page."""
    head, *rows = cells(report)
    bars = ["|" + "|".join(f" {c} " for c in row) + "|" for row in (head, ["---"] * len(head), *rows)]
    notes = [f"- {note}" for note in report.notes]
    return "\n".join(["# Knock-outs", "", f"`{command}`", "", *bars, "", *notes, ""])


def as_csv(report: Report) -> str:
    """Return the report as comma-separated values, in points."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    per_metric = ("{}", "{}_change", "{}_low", "{}_high")
    columns = [c.format(m.replace("-", "_").lower()) for m in COLUMNS for c in per_metric]
    writer.writerow(["knockout", "what", *columns, "verdict"])
    writer.writerow(["as-trained", "nothing", f"{report.base[0]:.4f}", "", "", "", f"{report.base[1]:.4f}"] + [""] * 4)
    for o in report.outcomes:
        pairs = zip(o.score, o.change, o.ranges, strict=True)
        numbers = [f"{x:.4f}" for s, d, (low, high) in pairs for x in (s, d, low, high)]
        writer.writerow([o.name, o.what, *numbers, o.verdict])
    return out.getvalue()


def main(argv: list[str]) -> int:
    """Run the sub-command.

    Args:
        argv: Words behind ``dsmoe-yolo knockout``.

    Returns:
        The exit code.

    Raises:
        DSMoEError: On bad input, before anything is written.
    """
    begun = begin(argv, USAGE, KEYS, "knockout")
    if begun is None:
        return 0
    options, evaluation, folder = begun
    report = evaluate(
        evaluation,
        only=options.get("only"),
        boot=options.get("boot", BOOT),
        seed=options.get("seed", 0),
        progress=lambda line: print(f"knock-out {line}", file=sys.stderr, flush=True),
    )
    page = markdown(report, f"dsmoe-yolo knockout {' '.join(argv)}")
    files = write_files(folder, {"knockout.csv": as_csv(report).encode(), "knockout.md": page.encode()})
    print(aligned(cells(report)))
    print(*report.notes, *(f"written: {path}" for path in files), sep="\n")
    return 0
