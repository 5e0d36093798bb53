"""Knock-outs: evaluate a checkpoint with one thing switched off at a time.

A stage earns its place where switching it off costs accuracy on the images at hand, by more than the choice of those
images explains; `ultra_dsmoe.evaluate.paired_bootstrap` says how that is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.evaluate.class_evaluation import ClassEvaluation
from ultra_dsmoe.evaluate.evaluation import Evaluation
from ultra_dsmoe.evaluate.measures import BOXES, Measures
from ultra_dsmoe.evaluate.paired_bootstrap import (
    BOOT,
    Effect,
    PairedBootstrap,
    Points,
    base_cells,
    base_csv_cells,
    csv_head,
    head,
)
from ultra_dsmoe.evaluate.text_table import csv_text
from ultra_dsmoe.explain.catalogue import CONTROL, Entry, applicable, lacking
from ultra_dsmoe.explain.record import recording
from ultra_dsmoe.nn.knockout import Record

WORTH = 1.0  # points of the first measure that a stage must be worth (our choice; docs/knockout.md, "Verdict")


@dataclass(frozen=True)
class Outcome:
    """What switching one thing off did.

    Attributes:
        name: Name of the knock-out.
        what: What was done.
        effect: Its change is negative where the thing was worth something.
        verdict: See `verdict`.
    """

    name: str
    what: str
    effect: Effect
    verdict: str


@dataclass(frozen=True)
class Report:
    """All outcomes with what they were measured on; ``base`` is both ``measures`` as trained, in points."""

    base: Points
    outcomes: list[Outcome]
    notes: list[str]
    measures: Measures = BOXES


def verdict(change: float, low: float, high: float) -> str:
    """Judge a change of mAP50, or of a classifier's macro F1.

    Args:
        change: The measure with the thing off minus the measure as trained, in points.
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
    evaluation: Evaluation | ClassEvaluation,
    only: list[str] | None = None,
    boot: int = BOOT,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Run all knock-outs that apply.

    Args:
        evaluation: Checkpoint and data.
        only: Names out of `catalogue`; all where omitted.
        boot: Bootstrap resamples.
        seed: Of resamples, random routes and random vectors.
        progress: Called with a line before every pass.

    Raises:
        ConfigError: If nothing that was asked for applies to the network.
    """
    fitting, notes = applicable(evaluation.net, only)
    if not fitting or (only is None and [k.name for k in fitting] == [CONTROL]):
        lacks = ", ".join(dict.fromkeys(entry.knockout.needs for entry in lacking(evaluation.net, only)))
        raise ConfigError("model", "a network with something to switch off", f"{evaluation.path} without {lacks}")
    record = Record()
    progress(f"0/{len(fitting)} as trained")
    pairs = PairedBootstrap(evaluation, boot, seed, recording(evaluation.net, record))
    outcomes = []
    for i, knockout in enumerate(fitting, 1):
        progress(f"{i}/{len(fitting)} {knockout.name}")
        outcomes.append(_outcome(knockout, pairs.effect(knockout.switch(evaluation.net, record, seed))))
    measures = pairs.measures
    if pairs.base[0] - pairs.chance < WORTH:  # no part can lose a point
        outcomes = [replace(o, verdict="unclear") if o.verdict == "inert" else o for o in outcomes]
        first = f"{measures.names[0]} is {pairs.base[0]:.2f} points as trained"
        notes.append(f"{first}: the net finds too little to judge its parts")
    control = next((o for o in outcomes if o.name == CONTROL), None)
    if control and any(control.effect.change):
        noise = f"{control.effect.change[0]:+.3f} points {measures.names[0]}"
        notes.append(f"two equal passes differ by {noise}: noise of this device")
    what = f"change: {measures.unit} with it off minus {measures.unit} as trained"
    notes.append(f"{what}, in points; {pairs.about}; another training run differs by more")
    return Report(pairs.base, outcomes, notes, measures)


def _outcome(knockout: Entry, effect: Effect) -> Outcome:
    judged = "control" if knockout.name == CONTROL else verdict(effect.change[0], *effect.ranges[0])
    return Outcome(knockout.name, knockout.what, effect, judged)


def cells(report: Report) -> list[list[str]]:
    """Return the table as text, headings first."""
    top = ["knock-out", "what is done", *head(report.measures), "verdict"]
    base = ["as trained", "nothing", *base_cells(report.base), ""]
    return [top, base, *([o.name, o.what, *o.effect.cells(), o.verdict] for o in report.outcomes)]


def markdown(report: Report, command: str) -> str:
    """Return the report as a page."""
    top, *rows = cells(report)
    bars = ["|" + "|".join(f" {c} " for c in row) + "|" for row in (top, ["---"] * len(top), *rows)]
    notes = [f"- {note}" for note in report.notes]
    return "\n".join(["# Knock-outs", "", f"`{command}`", "", *bars, "", *notes, ""])


def as_csv(report: Report) -> str:
    """Return the report as comma-separated values, in points."""
    top = ["knockout", "what", *csv_head(report.measures), "verdict"]
    base = ["as-trained", "nothing", *base_csv_cells(report.base), ""]
    return csv_text([top, base, *([o.name, o.what, *o.effect.csv_cells(), o.verdict] for o in report.outcomes)])
