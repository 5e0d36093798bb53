"""``dsmoe-yolo text paraphrases``: evaluate a checkpoint under other wordings of the same classes.

Nothing is trained: the network keeps its weights and gets the vectors of other descriptions, by the encoder it was
trained with, as ``dsmoe_prompts=`` gives it. A network that reads its prompts well should hardly move under a
paraphrase. Point values are the host's own; intervals come from the same paired bootstrap as those of the knock-outs.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ultra_dsmoe.errors import ConfigError, TextError
from ultra_dsmoe.explain import arguments
from ultra_dsmoe.explain.bootstrap import interval, mean_ap, replicates, resamples
from ultra_dsmoe.explain.evaluation import Evaluation, begin, write_files
from ultra_dsmoe.explain.knockout import BOOT, COLUMNS, aligned
from ultra_dsmoe.explain.record import Record
from ultra_dsmoe.explain.switches import other_text, text_rows
from ultra_dsmoe.text import TextBank, class_names, encode_bank, read_prompts


def _files(key: str, value: str) -> list[str]:
    """Check names of files, separated by commas; gives them without repeats."""
    return list(dict.fromkeys(arguments.text(key, name.strip()) for name in value.split(",")))


KEYS = {**arguments.COMMON, "boot": arguments.whole(100, 100_000), "prompts": _files}
USAGE = f"""usage: dsmoe-yolo text paraphrases best.pt prompts=a.yaml[,b.yaml,...] [key=value ...]

Evaluates a DS-MoE checkpoint with the wording it was trained on and with each of the given ones; prints a table and
writes paraphrases.csv. A class that a file leaves out keeps its wording.

  prompts  YAML files {{class: [texts]}}, separated by commas
  data     data YAML              default: the one the checkpoint was trained on
  imgsz    image size             default: as trained
  batch    images per batch       default: 16
  split    {"|".join(arguments.SPLITS)}         default: val
  device   cpu, 0, ...            default: the first GPU, or cpu
  seed     of the resamples       default: 0
  boot     bootstrap resamples    default: {BOOT}
  out      folder of the results  default: paraphrases/ in the checkpoint's run folder"""


@dataclass(frozen=True)
class Wording:
    """What one wording did, in points (hundredths of mAP).

    Attributes:
        name: File it came from.
        reworded: Classes whose prompts differ from those of the training.
        score: mAP50 and mAP50-95.
        change: Both, minus those under the trained wording.
        ranges: 95 % intervals of both changes.
        cosines: Cosine of each class's vector to that of the trained wording, (K,).
    """

    name: str
    reworded: int
    score: tuple[float, float]
    change: tuple[float, float]
    ranges: tuple[tuple[float, float], tuple[float, float]]
    cosines: np.ndarray


@dataclass(frozen=True)
class Report:
    """All wordings; ``base`` is mAP50 and mAP50-95 as trained, in points, ``names`` are the classes."""

    base: tuple[float, float]
    names: tuple[str, ...]
    wordings: list[Wording]
    notes: list[str]


def trained_bank(evaluation: Evaluation) -> TextBank:
    """Return the text vectors that a checkpoint was trained with.

    Raises:
        ConfigError: If it has no text side, or does not know its wording.
    """
    net = evaluation.net
    rows, info = text_rows(net), net.text_info
    if not rows or not info:
        raise ConfigError("model", "a network that was trained with prompts", f"{evaluation.path}, without")
    names = class_names(net.names)
    prompts = tuple(tuple(texts) for texts in info["prompts"])
    return TextBank(names, prompts, info["encoder"], rows[0].bank.float().cpu().numpy(), str(info.get("key", "")))


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
        return encode_bank(trained.names, section, encoder=trained.encoder, keep=trained.prompts)
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
    base = evaluation.run()
    counts = resamples(len(base.conf), boot, seed)
    base_map, base_boot = mean_ap(base), replicates(base, counts)
    found = []
    for i, (name, bank) in enumerate(wordings.items(), 1):
        progress(f"{i}/{len(wordings)} {name}")
        changed = np.array([a != b for a, b in zip(bank.prompts, trained.prompts, strict=True)])
        vectors = np.where(changed[:, None], bank.vectors, trained.vectors)
        stats = evaluation.run(other_text(_given(vectors))(evaluation.net, Record(), seed))
        assert stats.files == base.files, "the order of images changed between two passes"
        score, spread = mean_ap(stats), 100 * (replicates(stats, counts) - base_boot)
        ranges = (interval(spread[:, 0]), interval(spread[:, 1]))
        cosines = (_unit(vectors) * _unit(trained.vectors)).sum(1)
        found.append(Wording(name, int(changed.sum()), _points(score), _points(score - base_map), ranges, cosines))
    note = (
        f"change: mAP under the wording minus mAP as trained, in points; in brackets the 95 % interval of {boot} "
        f"paired bootstrap resamples of the {len(base.files)} images (seed {seed}); cosine: of a class's vector to "
        f"that of the trained wording, by {trained.encoder}"
    )
    return Report(_points(base_map), trained.names, found, [note])


def _given(vectors: np.ndarray) -> Callable[[torch.Tensor, np.random.Generator], torch.Tensor]:
    """Return a change of text vectors that puts these in their place."""
    return lambda own, rng: torch.from_numpy(vectors).to(own)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return the rows at length 1; a checkpoint keeps them in half precision, a little off."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _points(pair: np.ndarray) -> tuple[float, float]:
    return float(100 * pair[0]), float(100 * pair[1])


def sentence(change: float, low: float, high: float) -> str:
    """Say what the interval of a change of mAP50 says, in points."""
    if low <= 0 <= high:
        return "no evidence of a difference"
    return f"better by {low:.1f} to {high:.1f}" if change > 0 else f"worse by {-high:.1f} to {-low:.1f}"


def cells(report: Report) -> list[list[str]]:
    """Return the table as text, headings first."""
    changes = [c for name in COLUMNS for c in (name, "change [95 %]")]
    head = ["wording", "reworded", *changes, "cosine mean", "least cosine", "verdict on mAP50"]
    rows = [["as trained", "", f"{report.base[0]:.2f}", "", f"{report.base[1]:.2f}", "", "", "", ""]]
    for w in report.wordings:
        pairs = zip(w.score, w.change, w.ranges, strict=True)
        numbers = [c for s, d, (low, high) in pairs for c in (f"{s:.2f}", f"{d:+.2f} [{low:+.2f}, {high:+.2f}]")]
        least = f"{w.cosines.min():.3f} {report.names[int(w.cosines.argmin())]}"
        told = sentence(w.change[0], *w.ranges[0]) if w.reworded else "the trained wording"
        share = f"{w.reworded} of {len(w.cosines)}"
        rows.append([w.name, share, *numbers, f"{w.cosines.mean():.3f}", least, told])
    return [head, *rows]


def as_csv(report: Report) -> str:
    """Return the report as comma-separated values, in points; one column per class for the cosines."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    per_metric = ("{}", "{}_change", "{}_low", "{}_high")
    columns = [c.format(m.replace("-", "_").lower()) for m in COLUMNS for c in per_metric]
    writer.writerow(["wording", "reworded", *columns, *(f"cosine {name}" for name in report.names)])
    base = [f"{report.base[0]:.4f}", "", "", "", f"{report.base[1]:.4f}", "", "", ""]
    writer.writerow(["as-trained", 0, *base, *["1.0000"] * len(report.names)])
    for w in report.wordings:
        pairs = zip(w.score, w.change, w.ranges, strict=True)
        numbers = [f"{x:.4f}" for s, d, (low, high) in pairs for x in (s, d, low, high)]
        writer.writerow([w.name, w.reworded, *numbers, *(f"{c:.4f}" for c in w.cosines)])
    return out.getvalue()


def main(argv: list[str]) -> int:
    """Run the sub-command.

    Args:
        argv: Words behind ``dsmoe-yolo text paraphrases``.

    Returns:
        The exit code.

    Raises:
        DSMoEError: On bad input, before anything is written.
    """
    begun = begin(argv, USAGE, KEYS, "paraphrases")
    if begun is None:
        return 0
    options, evaluation, folder = begun
    if "prompts" not in options:
        raise ConfigError("prompts", "YAML files of other wordings, separated by commas", "none")
    trained = trained_bank(evaluation)
    report = evaluate(
        evaluation,
        {path: reword(trained, path) for path in options["prompts"]},
        trained,
        boot=options.get("boot", BOOT),
        seed=options.get("seed", 0),
        progress=lambda line: print(f"wording {line}", file=sys.stderr, flush=True),
    )
    files = write_files(folder, {"paraphrases.csv": as_csv(report).encode()})
    print(aligned(cells(report)))
    print(*report.notes, *(f"written: {path}" for path in files), sep="\n")
    return 0
