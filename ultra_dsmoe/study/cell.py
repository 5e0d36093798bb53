"""Validate the best checkpoint of one finished training and keep what was seen per image.

Runs in a process of its own: ``python cell.py FOLDER [--knockouts]``, where the folder holds ``cell.json`` and
the host's ``train/``. Writes ``matches.npz``, then ``result.json``, then the knock-outs' ``knockout.csv``, each
complete or not at all; what is there already is not made again.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ultra_dsmoe.data.reference.choice import KEY
from ultra_dsmoe.data.reference.in_force import in_force
from ultra_dsmoe.data.source import DataSource
from ultra_dsmoe.evaluate import class_evaluation, controls
from ultra_dsmoe.evaluate.class_metrics import counts, f1_scores, recalls
from ultra_dsmoe.evaluate.class_stats import MEASURES, ClassStats, scores
from ultra_dsmoe.evaluate.evaluation import Collector, ImageStats, quiet
from ultra_dsmoe.evaluate.reference_choice import references_of
from ultra_dsmoe.explain import knockout
from ultra_dsmoe.explain.catalogue import CONTROL, applicable
from ultra_dsmoe.files import write_files
from ultra_dsmoe.model.network import Network
from ultra_dsmoe.study.folders import place
from ultra_dsmoe.study.store import KNOCKOUTS, MATCHES, RESULT, compressed, pack
from ultra_dsmoe.study.task import CLASSIFY

# Arguments of the training that change what a validation gives.
ALSO_VALIDATION = (
    "imgsz",
    "batch",
    "data",
    "device",
    "workers",
    "single_cls",
    "iou",
    "conf",
    "max_det",
    "agnostic_nms",
)
FOR_CLASSIFIERS = ("imgsz", "batch", "device", "workers")
FOR_KNOCKOUTS = ("data", "imgsz", "batch", "device", "split", KEY)
PACKAGES = {"ultralytics": "ultralytics", "torch": "torch", "ultra_dsmoe": "ultra-dsmoe"}


def validate(best: Path, settings: dict[str, Any]) -> tuple[ImageStats, dict[str, Any]]:
    """Run the host's validator over the val split, or the one that the study names.

    Args:
        best: Checkpoint.
        settings: Arguments of the training.

    Returns:
        Matches per image, and the host's mAP50, mAP50-95, precision, recall, per-class AP, with the hash of the text
        vectors where the net has any.
    """
    from ultralytics import YOLO

    args = {k: settings[k] for k in ALSO_VALIDATION if k in settings}
    args |= {"task": "detect", "mode": "val", "model": str(best), "plots": False, "rect": True}
    args["split"] = settings.get("split", "val")
    with TemporaryDirectory() as folder, ExitStack() as stack, quiet():
        net: Any = YOLO(str(best)).model
        net.float().eval()
        stack.enter_context(
            in_force(references_of(net, settings.get(KEY), DataSource(settings["data"], named=True), str(best)))
        )
        collector = Collector(stack, nullcontext(), dataloader=None, save_dir=Path(folder), args=args)
        collector(model=net)
    box = collector.metrics.box
    names: Any = collector.names  # None before a validation
    ap = {names[c]: float(a) for c, a in zip(box.ap_class_index, box.ap, strict=True)}
    info = getattr(net, "text_info", None) or {}
    scores = {"mAP50": float(box.map50), "mAP50-95": float(box.map), "precision": float(box.mp),
              "recall": float(box.mr)}  # fmt: skip
    return collector.images, {**scores, "per_class_AP": ap, "prompt_hash": info.get("key", "")}


def validate_classifier(best: Path, settings: dict[str, Any]) -> tuple[ClassStats, dict[str, Any]]:
    """Run the validator of classifiers over the split that the study names.

    Args:
        best: Checkpoint.
        settings: Of the cell.

    Returns:
        Classes per image, and the numbers of the table.
    """
    from ultralytics import YOLO

    root = place(settings.get("tested", settings["data"]))
    args: dict[str, Any] = {k: settings[k] for k in FOR_CLASSIFIERS if k in settings}
    args |= {"model": str(best), "data": str(root), "split": settings["split"]}
    with quiet():
        net: Any = YOLO(str(best)).model
    stats = class_evaluation.evaluate(net, args)
    return stats, class_numbers(stats)


def fit_control(best: Path, settings: dict[str, Any]) -> tuple[ClassStats, dict[str, Any]]:
    """Fit a control on the training half and let it name the classes of the split that the study names.

    Args:
        best: Unused; a control has no checkpoint.
        settings: Of the cell.

    Returns:
        Classes per image, and the numbers of the table.
    """
    begun = time.monotonic()
    options = {key: settings[key] for key in controls.OPTIONS if key in settings}
    root, split = place(settings["data"]), settings["split"]
    stats = controls.evaluate(root, split, settings["control"], settings["fit"], **options)
    return stats, {**class_numbers(stats), "seconds": time.monotonic() - begun}


def class_numbers(stats: ClassStats) -> dict[str, Any]:
    """Return a classifier's numbers of the table."""
    table = counts(stats.target, stats.found, len(stats.names))
    found: dict[str, Any] = dict(zip(MEASURES, map(float, scores(stats)), strict=True))
    found["recall"] = float(recalls(table)[table.sum(1) > 0].mean())
    each = {"per_class_recall": recalls(table), "per_class_F1": f1_scores(table)}
    return {**found, **{k: dict(zip(stats.names, map(float, values), strict=True)) for k, values in each.items()}}


def training_seconds(file: Path) -> float:
    """Return the time of a training from the host's ``results.csv``, whose clock starts anew when one is resumed."""
    with file.open(newline="") as f:
        times = [float(row["time"]) for row in csv.DictReader(f, skipinitialspace=True)]
    ends = [t for t, after in zip(times, [*times[1:], 0.0], strict=True) if after < t]
    return sum(ends)


def knockouts(best: Path, settings: dict[str, Any]) -> str:
    """Evaluate a net with one thing switched off at a time.

    Args:
        best: Checkpoint.
        settings: Arguments of the training.

    Returns:
        The table of ``dsmoe-yolo knockout``; empty for a net with nothing to switch off, as a stock one, and for a
        control, which is no net.
    """
    from ultralytics import YOLO

    if "control" in settings:
        return ""
    with quiet():
        net = YOLO(str(best)).model
    if not isinstance(net, Network) or {k.name for k in applicable(net, None)[0]} <= {CONTROL}:
        return ""
    options = {"model": best, **{k: settings[k] for k in FOR_KNOCKOUTS if k in settings}}
    if settings.get("task") == CLASSIFY.name:
        options["data"] = place(settings.get("tested", settings["data"]))
    evaluation = class_evaluation.evaluation_of(options)
    return knockout.as_csv(knockout.evaluate(evaluation, progress=lambda line: print(line, flush=True)))


def keep(folder: Path, stats: ImageStats | ClassStats, result: dict[str, Any]) -> None:
    """Write what a validation gave."""
    if "seconds" not in result:  # of a control, which is no training
        result["seconds"] = training_seconds(folder / "train" / "results.csv")
    result |= {key: importlib.metadata.version(name) for key, name in PACKAGES.items()}
    write_files(folder, {MATCHES: compressed(pack(stats))})
    write_files(folder, {RESULT: json.dumps(result, indent=2).encode()})


def _how(settings: dict[str, Any]) -> Callable[[Path, dict[str, Any]], tuple[Any, dict[str, Any]]]:
    """Return what validates a cell of these settings."""
    if "control" in settings:
        return fit_control
    return validate_classifier if settings.get("task") == CLASSIFY.name else validate


def main() -> None:
    """Validate the cell in the folder that is named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--knockouts", action="store_true")
    args = parser.parse_args()
    folder, best = args.folder, args.folder / "train" / "weights" / "best.pt"
    cell = json.loads((folder / "cell.json").read_text())
    if not all((folder / name).is_file() for name in (MATCHES, RESULT)):
        keep(folder, *_how(cell["settings"])(best, cell["settings"]))
    if args.knockouts and not (folder / KNOCKOUTS).is_file():
        write_files(folder, {KNOCKOUTS: knockouts(best, cell["settings"]).encode()})


if __name__ == "__main__":
    main()
