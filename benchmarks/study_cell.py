"""Validate the best checkpoint of one finished training and keep what was seen per image.

Runs in a process of its own: ``python study_cell.py FOLDER``, where the folder holds ``cell.json`` and the host's
``train/``. Writes ``matches.npz``, then ``result.json``, each complete or not at all.
"""

from __future__ import annotations

import csv
import importlib.metadata
import json
import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ultra_dsmoe.explain.evaluation import Collector, ImageStats, quiet, write_files

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
PACKAGES = {"ultralytics": "ultralytics", "torch": "torch", "ultra_dsmoe": "ultra-dsmoe"}


def validate(best: Path, settings: dict[str, Any]) -> tuple[ImageStats, dict[str, Any]]:
    """Run the host's validator over the val split.

    Args:
        best: Checkpoint.
        settings: Arguments of the training.

    Returns:
        Matches per image, and the host's mAP50, mAP50-95, precision, recall, per-class AP, with the hash of the text
        vectors where the net has any.
    """
    from ultralytics import YOLO

    args = {k: settings[k] for k in ALSO_VALIDATION if k in settings}
    args |= {"task": "detect", "mode": "val", "model": str(best), "plots": False, "rect": True, "split": "val"}
    with TemporaryDirectory() as folder, ExitStack() as stack, quiet():
        net = YOLO(str(best)).model.float().eval()
        collector = Collector(stack, nullcontext(), dataloader=None, save_dir=Path(folder), args=args)
        collector(model=net)
    box = collector.metrics.box
    ap = {collector.names[c]: float(a) for c, a in zip(box.ap_class_index, box.ap, strict=True)}
    info = getattr(net, "text_info", None) or {}
    scores = {"mAP50": float(box.map50), "mAP50-95": float(box.map), "precision": float(box.mp),
              "recall": float(box.mr)}  # fmt: skip
    return collector.images, {**scores, "per_class_AP": ap, "prompt_hash": info.get("key", "")}


def pack(stats: ImageStats) -> dict[str, np.ndarray]:
    """Return matches as flat arrays; how many belong to each image is in ``detections`` and ``labels``."""
    return {
        "files": np.array([Path(f).name for f in stats.files]),
        "detections": np.array([len(c) for c in stats.conf]),
        "labels": np.array([len(c) for c in stats.target_cls]),
        "tp": np.concatenate([np.asarray(t, bool).reshape(-1, 10) for t in stats.tp]),
        "conf": np.concatenate(stats.conf).astype(np.float32),
        "pred_cls": np.concatenate(stats.pred_cls).astype(np.int16),
        "target_cls": np.concatenate(stats.target_cls).astype(np.int16),
    }


def unpack(file: Path) -> ImageStats:
    """Return the matches of ``matches.npz``."""
    with np.load(file) as arrays:
        cuts = {"tp": "detections", "conf": "detections", "pred_cls": "detections", "target_cls": "labels"}
        parts = {k: np.split(arrays[k], arrays[n].cumsum()[:-1]) for k, n in cuts.items()}
        return ImageStats([str(f) for f in arrays["files"]], **parts)


def training_seconds(file: Path) -> float:
    """Return the time of a training from the host's ``results.csv``, whose clock starts anew when one is resumed."""
    with file.open(newline="") as f:
        times = [float(row["time"]) for row in csv.DictReader(f, skipinitialspace=True)]
    ends = [t for t, after in zip(times, [*times[1:], 0.0], strict=True) if after < t]
    return sum(ends)


def main() -> None:
    """Validate the cell in the folder that is named."""
    import io

    folder = Path(sys.argv[1])
    cell = json.loads((folder / "cell.json").read_text())
    stats, result = validate(folder / "train" / "weights" / "best.pt", cell["settings"])
    result["seconds"] = training_seconds(folder / "train" / "results.csv")
    result |= {key: importlib.metadata.version(name) for key, name in PACKAGES.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **pack(stats))
    write_files(folder, {"matches.npz": buffer.getvalue()})
    write_files(folder, {"result.json": json.dumps(result, indent=2).encode()})


if __name__ == "__main__":
    main()
