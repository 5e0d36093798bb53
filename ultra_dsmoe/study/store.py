"""Finished cells, kept beside the tables as ``cells/HASH.npz``, HASH being that of a cell's settings.

They hold what a verdict needs: the matches per image, or a classifier's classes, the numbers of the table, the
knock-outs. So verdicts are worked out
again in any checkout, without weights, images or trainings; and a cell that another study has run with the same
settings is found here. To be small enough for a repository, some 70 kB a cell, they go without the least confident
detections and with confidences of 11 bits: mAP is that of all detections to 1e-3.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ultra_dsmoe.errors import DataError
from ultra_dsmoe.evaluate.class_stats import ARRAYS, ClassStats
from ultra_dsmoe.evaluate.evaluation import ImageStats

KEPT = "cells"
LEAST, MOST = 0.005, 100  # least confidence that is kept, and detections of an image (COCO's number): mAP loses 7e-4
IOUS = 10  # thresholds of the host
MATCHES, RESULT, KNOCKOUTS = "matches.npz", "result.json", "knockout.csv"  # of a cell's own folder
PARTS = ("tp", "conf", "pred_cls", "target_cls")
UNREADABLE = (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile)


class Kept(NamedTuple):
    """A finished cell.

    Attributes:
        stats: Matches per image, or a classifier's classes.
        result: The host's numbers, hashes and versions.
        knockouts: The table of ``dsmoe-yolo knockout``, empty for a net with nothing to switch off; None where it was
            not asked for.
    """

    stats: ImageStats | ClassStats
    result: dict[str, Any]
    knockouts: str | None


def pack(stats: ImageStats | ClassStats, precision: type[np.floating] = np.float32) -> dict[str, np.ndarray]:
    """Return matches as flat arrays; how many belong to each image is in ``detections`` and ``labels``.

    Args:
        stats: Matches, or a classifier's classes, which are as many as the images.
        precision: Of the confidences.
    """
    files = np.array([Path(f).name for f in stats.files])
    if isinstance(stats, ClassStats):
        classes = {"target": stats.target.astype(np.int16), "found": stats.found.astype(np.int16)}
        return {"files": files, "names": np.array(stats.names), **classes,
                "probabilities": stats.probabilities.astype(precision)}  # fmt: skip
    return {
        "files": files,
        "detections": np.array([len(c) for c in stats.conf]),
        "labels": np.array([len(c) for c in stats.target_cls]),
        "tp": np.packbits(np.concatenate([np.asarray(t, bool).reshape(-1, IOUS) for t in stats.tp]), axis=1),
        "conf": np.concatenate(stats.conf).astype(precision),
        "pred_cls": np.concatenate(stats.pred_cls).astype(np.int16),
        "target_cls": np.concatenate(stats.target_cls).astype(np.int16),
    }


def unpack(file: Path) -> ImageStats | ClassStats:
    """Return the matches, or classes, of a file that has those of `pack` in it."""
    with np.load(file) as arrays:
        if "probabilities" in arrays:
            files, names = ([str(value) for value in arrays[key]] for key in ("files", "names"))
            return ClassStats(files, names, *(arrays[name] for name in ARRAYS))
        flat = {name: arrays[name] for name in PARTS}
        flat["tp"] = np.unpackbits(flat["tp"], axis=1, count=IOUS).astype(bool)
        flat["conf"] = flat["conf"].astype(np.float32)
        cuts = {name: arrays["labels" if name == "target_cls" else "detections"].cumsum()[:-1] for name in PARTS}
        return ImageStats([str(f) for f in arrays["files"]], **{n: np.split(flat[n], cuts[n]) for n in PARTS})


def thinned(stats: ImageStats | ClassStats) -> ImageStats | ClassStats:
    """Return the matches of each image's `MOST` most confident detections, without those below `LEAST`."""
    if isinstance(stats, ClassStats):
        return stats
    keep = []
    for conf in map(np.asarray, stats.conf):
        first = np.sort(np.argsort(-conf, kind="stable")[:MOST])
        keep.append(first[conf[first] >= LEAST])
    kept = {name: [np.asarray(v)[k] for v, k in zip(getattr(stats, name), keep, strict=True)] for name in PARTS[:3]}
    return ImageStats(stats.files, target_cls=stats.target_cls, **kept)


def compressed(arrays: dict[str, np.ndarray]) -> bytes:
    """Return arrays as the content of an ``.npz`` file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # taken for `allow_pickle`
    return buffer.getvalue()


def gather(folder: Path) -> bytes:
    """Return what a validated cell leaves in its folder as the content of one file to keep.

    Raises:
        DataError: If a file there is damaged.
    """
    try:
        arrays = pack(thinned(unpack(folder / MATCHES)), np.float16)
        result = {
            **json.loads((folder / RESULT).read_text()),
            "commit": json.loads((folder / "cell.json").read_text())["commit"],
        }
        texts = {"result": json.dumps(result)}
        if (folder / KNOCKOUTS).is_file():
            texts["knockouts"] = (folder / KNOCKOUTS).read_text(encoding="utf-8")
    except UNREADABLE as e:
        raise DataError(str(folder), "a cell's files; delete the folder to run it again", f"damaged ones ({e})") from e
    return compressed({**arrays, **{name: np.array(text) for name, text in texts.items()}})


def read_kept(file: Path) -> Kept:
    """Read a finished cell.

    Raises:
        DataError: If the file is gone or damaged.
    """
    try:
        with np.load(file) as arrays:
            result = json.loads(str(arrays["result"]))
            knockouts = str(arrays["knockouts"]) if "knockouts" in arrays else None
        return Kept(unpack(file), result, knockouts)
    except UNREADABLE as e:
        raise DataError(str(file), "a finished cell", f"none that can be read ({e})") from e
