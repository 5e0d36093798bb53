"""Paraphrases: evaluate a checkpoint under other wordings of the same classes.

Nothing is trained: the network keeps its weights and gets the vectors of other descriptions, by the encoder it was
trained with, as ``dsmoe_prompts=`` gives it. A network that reads its prompts well should hardly move under a
paraphrase; `ultra_dsmoe.evaluate.paired_bootstrap` compares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ultra_dsmoe.errors import ConfigError, TextError
from ultra_dsmoe.evaluate.evaluation import Evaluation
from ultra_dsmoe.evaluate.paired_bootstrap import (
    BOOT,
    CSV_HEAD,
    HEAD,
    Effect,
    PairedBootstrap,
    Points,
    base_cells,
    base_csv_cells,
)
from ultra_dsmoe.evaluate.text_table import csv_text
from ultra_dsmoe.explain.catalogue import Entry
from ultra_dsmoe.nn.knockout import Knockout, Record
from ultra_dsmoe.nn.neck.text_semantics import other_text
from ultra_dsmoe.text import TextBank, encode_bank, read_prompts


@dataclass(frozen=True)
class Wording:
    """What one wording did.

    Attributes:
        name: File it came from.
        reworded: Classes whose prompts differ from those of the training.
        effect: Against the trained wording.
        cosines: Cosine of each class's vector to that of the trained wording, (K,).
    """

    name: str
    reworded: int
    effect: Effect
    cosines: np.ndarray


@dataclass(frozen=True)
class Report:
    """All wordings; ``base`` is mAP50 and mAP50-95 as trained, in points, ``names`` are the classes."""

    base: Points
    names: tuple[str, ...]
    wordings: list[Wording]
    notes: list[str]


def trained_bank(evaluation: Evaluation) -> TextBank:
    """Return the text vectors that a checkpoint was trained with.

    Raises:
        ConfigError: If it has no text side, or does not know its wording.
    """
    bank = evaluation.net.text_bank()
    if bank is None:
        raise ConfigError("model", "a network that was trained with prompts", f"{evaluation.path}, without")
    return bank


def reword(trained: TextBank, path: str) -> TextBank:
    """Return the vectors of a file's wording by the encoder of the training.

    Raises:
        TextError: If the file has no text for a class, or the encoder is not on this disk.
    """
    if not Path(path).is_file():
        raise TextError("prompts", "an existing YAML file", path)
    section = read_prompts(path)
    if not section:
        raise TextError("prompts", f"at least one class in {path}", "none")
    try:
        return encode_bank(
            trained.names,
            section,
            encoder=trained.encoder,
            keep=trained.prompts,
            local_only=True,
            each=trained.each is not None,
        )
    except TextError as e:
        raise TextError(f"prompts file {path}: {e.argument}", e.expected, e.got) from e


def evaluate(
    evaluation: Evaluation,
    wordings: dict[str, TextBank],
    trained: TextBank,
    boot: int = BOOT,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Validate once as trained and once with each wording.

    Args:
        evaluation: Checkpoint and data.
        wordings: Name to vectors, see `reword`.
        trained: Vectors of the training.
        boot: Bootstrap resamples.
        seed: Of the resamples.
        progress: Called with a line before every pass.
    """
    progress(f"0/{len(wordings)} as trained")
    pairs = PairedBootstrap(evaluation, boot, seed)
    found = []
    for i, (name, bank) in enumerate(wordings.items(), 1):
        progress(f"{i}/{len(wordings)} {name}")
        changed = np.array([a != b for a, b in zip(bank.prompts, trained.prompts, strict=True)])
        vectors = np.where(changed[:, None], bank.vectors, trained.vectors)
        given = vectors if bank.each is None or trained.each is None else mixed(changed, bank.each, trained.each)
        reworded = Knockout(name, "other wording", other_text(_given(given)), text=True)
        entry = Entry(reworded, lambda _: evaluation.net.text_rows())
        effect = pairs.effect(entry.switch(evaluation.net, Record(), seed))
        cosines = (_unit(vectors) * _unit(trained.vectors)).sum(1)
        found.append(Wording(name, int(changed.sum()), effect, cosines))
    note = (
        f"change: mAP under the wording minus mAP as trained, in points; {pairs.about}; cosine: of a class's vector to "
        f"that of the trained wording, by {trained.encoder}"
    )
    return Report(pairs.base, trained.names, found, [note])


def mixed(changed: np.ndarray, each: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Return the single vectors of the changed classes from the one, of the others from the other, [K, P, d]."""
    most = max(each.shape[1], trained.shape[1])
    wide = [np.pad(v, ((0, 0), (0, most - v.shape[1]), (0, 0))) for v in (each, trained)]
    return np.where(changed[:, None, None], *wide)


def _given(vectors: np.ndarray) -> Callable[[torch.Tensor, np.random.Generator], torch.Tensor]:
    """Return a change of text vectors that puts these in their place."""
    return lambda own, rng: torch.from_numpy(vectors).to(own)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return the rows at length 1; a checkpoint keeps them in half precision, a little off."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def sentence(change: float, low: float, high: float) -> str:
    """Say what the interval of a change of mAP50 says, in points."""
    if low <= 0 <= high:
        return "no evidence of a difference"
    return f"better by {low:.1f} to {high:.1f}" if change > 0 else f"worse by {-high:.1f} to {-low:.1f}"


def cells(report: Report) -> list[list[str]]:
    """Return the table as text, headings first."""
    head = ["wording", "reworded", *HEAD, "cosine mean", "least cosine", "verdict on mAP50"]
    rows = [["as trained", "", *base_cells(report.base), "", "", ""]]
    for w in report.wordings:
        least = f"{w.cosines.min():.3f} {report.names[int(w.cosines.argmin())]}"
        reading = sentence(w.effect.change[0], *w.effect.ranges[0]) if w.reworded else "the trained wording"
        share = f"{w.reworded} of {len(w.cosines)}"
        rows.append([w.name, share, *w.effect.cells(), f"{w.cosines.mean():.3f}", least, reading])
    return [head, *rows]


def as_csv(report: Report) -> str:
    """Return the report as comma-separated values, in points; one column per class for the cosines."""
    head = ["wording", "reworded", *CSV_HEAD, *(f"cosine {name}" for name in report.names)]
    base = ["as-trained", 0, *base_csv_cells(report.base), *["1.0000"] * len(report.names)]
    rows = [[w.name, w.reworded, *w.effect.csv_cells(), *(f"{c:.4f}" for c in w.cosines)] for w in report.wordings]
    return csv_text([head, base, *rows])
