"""What a net with a known-good reference loses when image and reference do not fit, and its false alarms on good parts.

Both are measured beside a net without a reference, on the same images.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ultra_dsmoe.data.groups import check_groups, group_numbers
from ultra_dsmoe.data.labelled import class_names, read_piece, read_set, split_labels
from ultra_dsmoe.data.reference.choice import chosen
from ultra_dsmoe.data.reference.in_force import in_force
from ultra_dsmoe.data.reference.references import References
from ultra_dsmoe.data.source import DataSource
from ultra_dsmoe.errors import DataError
from ultra_dsmoe.evaluate.bootstrap import mean_ap
from ultra_dsmoe.evaluate.evaluation import Collector, ImageStats, quiet
from ultra_dsmoe.evaluate.reference_choice import references_of
from ultra_dsmoe.evaluate.reference_conditions import Condition, Pair, conditions, known_good, write_set
from ultra_dsmoe.evaluate.text_table import csv_text
from ultra_dsmoe.logs import at_level

WITH, WITHOUT = "with reference", "without"
OFF, ON = "none", "affine"  # registration
RECALLS = (0.5, 0.6, 0.7, 0.8, 0.9)
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Line:
    """One net under one condition.

    Attributes:
        condition: What went wrong.
        net: ``with reference`` or ``without``.
        align: Registration, empty for a net without a reference.
        map50: Within [0, 1].
        map50_95: Within [0, 1].
    """

    condition: Condition
    net: str
    align: str
    map50: float
    map50_95: float


@dataclass(frozen=True)
class Alarms:
    """Boxes on known-good parts, of which there should be none, at thresholds that give a net some recall.

    Attributes:
        recall: Share of the labelled defects that is found at the threshold, of the right class, IoU 0.5.
        with_reference: Boxes per known-good image.
        without: The same of the net without a reference, None where there is none or it never finds as many.
    """

    recall: float
    with_reference: float
    without: float | None


def read_pairs(data: str, split: str, most: int = 0) -> tuple[list[Pair], list[str]]:
    """Return images of a split with their boxes and references as they are on disk, and the class names.

    Args:
        data: Data YAML with a ``reference`` section.
        split: Which images.
        most: How many at most, 0 for all; spread evenly over the split.

    Raises:
        DataError: If the set has no references, or none for one of the images.
    """
    content = read_set(data)
    spec = chosen(content, Path(content["path"]))
    if spec is None:
        raise DataError("data", "a data YAML with a 'reference' section", data)
    labels = split_labels(content, split)
    if not labels:
        raise DataError("data", f"images in its '{split}' split", data)
    if 0 < most < len(labels):
        labels = [labels[i] for i in np.linspace(0, len(labels) - 1, most).round().astype(int)]
    references = References(replace(spec, align=OFF, missing="error"), 3)
    files = [Path(label["im_file"]) for label in labels]
    references.require(files)
    pattern = check_groups(data, content.get("groups"))
    numbers = group_numbers([str(file) for file in files], pattern)
    pairs = []
    for file, label, number in zip(files, labels, numbers, strict=True):
        piece = read_piece(label)
        # Without groups, images that share a reference are of one product.
        group = str(number) if pattern else str(references.find(file))
        pairs.append(Pair(file, piece, references.load(file, piece.pixels).pixels, group))
    return pairs, class_names(content)


def robustness(
    nets: dict[str, Path],
    pairs: Sequence[Pair],
    names: Sequence[str],
    args: dict[str, Any],
    progress: Progress,
    every: Sequence[Condition] | None = None,
) -> list[Line]:
    """Validate the nets under all conditions, the one with references with registration off and on.

    Args:
        nets: ``with reference``, and ``without`` where there is one.
        pairs: Images, boxes and references.
        names: Of the classes.
        args: The host's arguments of a validation.
        progress: Called with a line before every pass.
        every: The conditions; all where left out.
    """
    lines: list[Line] = []
    every = conditions() if every is None else every
    for i, condition in enumerate(every, 1):
        for align in (OFF, ON):
            progress(f"{i}/{len(every)} {condition.name}, registration {'off' if align == OFF else 'on'}")
            with TemporaryDirectory() as folder:
                data = write_set(Path(folder), pairs, condition, names, align)
                lines.append(Line(condition, WITH, align, *_score(nets[WITH], data, args)))
                if WITHOUT in nets and align == OFF:
                    lines.append(Line(condition, WITHOUT, "", *_score(nets[WITHOUT], data, args)))
    return lines


def false_alarms(
    nets: dict[str, Path], pairs: Sequence[Pair], names: Sequence[str], args: dict[str, Any], progress: Progress
) -> list[Alarms]:
    """Count boxes on other shots of the known-good parts, at thresholds of equal recall on the defective ones.

    Args:
        nets: See `robustness`.
        pairs: Images, boxes and references.
        names: Of the classes.
        args: The host's arguments of a validation.
        progress: Called with a line before every pass.
    """
    shot, none = known_good(), np.zeros(0, dtype=int)
    good = [
        replace(pair, piece=replace(pair.piece, pixels=pair.reference, classes=none, boxes_xyxy_px=np.zeros((0, 4))))
        for pair in pairs
    ]
    found: dict[str, tuple[ImageStats, np.ndarray]] = {}
    for net, file in nets.items():
        progress(f"false alarms, {net}")
        with TemporaryDirectory() as folder:
            bad = matches(file, write_set(Path(folder) / "bad", pairs, conditions()[0], names, ON), args)
            again = Condition("known good", of_image=shot)
            on_good = matches(file, write_set(Path(folder) / "good", good, again, names, ON), args)
        found[net] = bad, np.concatenate([np.zeros(0), *on_good.conf])
    rows = []
    for recall in RECALLS:
        boxes = {net: _boxes_at(recall, stats, scores, len(pairs)) for net, (stats, scores) in found.items()}
        if (ours := boxes[WITH]) is not None:
            rows.append(Alarms(recall, ours, boxes.get(WITHOUT)))
    return rows


def _boxes_at(recall: float, stats: ImageStats, scores: np.ndarray, images: int) -> float | None:
    """Return boxes per image at the threshold that finds a share of the labels, None where no threshold does."""
    labels = sum(map(len, stats.target_cls))
    hits = np.concatenate([tp[:, 0] for tp in stats.tp]).astype(bool)
    confidences = np.sort(np.concatenate(stats.conf)[hits])[::-1]
    needed = int(np.ceil(recall * labels))
    if not 0 < needed <= len(confidences):
        return None
    return float((scores >= confidences[needed - 1]).sum()) / images


def matches(file: Path, data: Path, args: dict[str, Any]) -> ImageStats:
    """Validate a checkpoint on a set that `write_set` wrote; a net with the row gets the set's references."""
    from ultralytics import YOLO
    from ultralytics.utils import LOGGER

    with quiet():
        net: Any = YOLO(str(file)).model
    net.float().eval()
    references = references_of(net, None, DataSource(str(data), named=True), str(file))
    wanted = {**args, "task": "detect", "mode": "val", "model": str(file), "data": str(data), "split": "val"}
    # What the host and the references warn of, images without labels or references, is there on purpose.
    with TemporaryDirectory() as folder, ExitStack() as stack, at_level(LOGGER, logging.ERROR), in_force(references):
        collector = Collector(stack, nullcontext(), dataloader=None, save_dir=Path(folder), args=wanted)
        collector(model=net)
    return collector.images


def _score(file: Path, data: Path, args: dict[str, Any]) -> tuple[float, float]:
    map50, map50_95 = mean_ap(matches(file, data, args))
    return float(map50), float(map50_95)


def cells(lines: Sequence[Line]) -> list[list[str]]:
    """Return the table as text: a condition per row, headings first; mAP50 / mAP50-95 in points."""
    columns = [(WITH, OFF), (WITH, ON), (WITHOUT, "")]
    present = [column for column in columns if any((line.net, line.align) == column for line in lines)]
    titles = {(WITH, OFF): "registration off", (WITH, ON): "registration on", (WITHOUT, ""): "without reference"}
    rows = [["condition", *(titles[column] for column in present)]]
    for name in dict.fromkeys(line.condition.name for line in lines):
        here = {(line.net, line.align): line for line in lines if line.condition.name == name}
        shown = [here.get(column) for column in present]
        rows.append([name, *("" if s is None else f"{100 * s.map50:.1f} / {100 * s.map50_95:.1f}" for s in shown)])
    return rows


def alarm_cells(rows: Sequence[Alarms]) -> list[list[str]]:
    """Return the table of false alarms as text, headings first."""
    shown = [["recall", "with reference", "without", "ratio"]]
    for row in rows:
        ratio = f"{row.with_reference / row.without:.2f}" if row.without else ""
        other = "" if row.without is None else f"{row.without:.2f}"
        shown.append([f"{row.recall:.1f}", f"{row.with_reference:.2f}", other, ratio])
    return shown


def as_csv(lines: Sequence[Line]) -> str:
    """Return the passes as comma-separated values, mAP within [0, 1]."""
    head = ["condition", "amount", "unit", "net", "align", "map50", "map50_95"]
    rows = [
        [ln.condition.kind, ln.condition.amount, ln.condition.unit.strip(), ln.net, ln.align,
         f"{ln.map50:.4f}", f"{ln.map50_95:.4f}"] for ln in lines
    ]  # fmt: skip
    return csv_text([head, *rows])
