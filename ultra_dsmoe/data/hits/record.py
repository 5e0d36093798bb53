"""The record of an image of hits: what a drill's log has of it in numbers, kept in a sidecar beside the image."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ultra_dsmoe.data.hits.distribution import RADIUS
from ultra_dsmoe.errors import DataError

MOMENTS = ("mu_x", "mu_y", "sd_x", "sd_y", "cov_xy")
BINS = (0, 2, 4, 6, 8, 10, 12, int(RADIUS))  # edges by distance from the circle's centre; the last one ends with it
KEYS = (*MOMENTS, "hits", *(f"r{low}_{high}" for low, high in pairwise(BINS)))
DIGITS = 4  # behind the point, in a record
_BIN = re.compile(r"r(\d+)_(\d+)")


def measure(points: np.ndarray, keys: Iterable[str] = KEYS) -> dict[str, float]:
    """Return the record of some hits.

    Args:
        points: (N, 2) in units of the table.
        keys: What is asked for; what hits do not tell is left out.

    Returns:
        Means, standard deviations and covariance (of a sample: over N - 1), the number of hits, and the numbers of
        those from one radius (inclusive) to another, as in ``r2_4``.
    """
    cov, radii = np.cov(points.T), np.hypot(points[:, 0], points[:, 1])
    moments = (*points.mean(0), math.sqrt(cov[0, 0]), math.sqrt(cov[1, 1]), cov[0, 1])
    known = dict(zip(MOMENTS, (round(float(v), DIGITS) for v in moments), strict=True))
    found: dict[str, float] = {}
    for key in keys:
        if key in known:
            found[key] = known[key]
        elif key == "hits":
            found[key] = len(points)
        elif between := _BIN.fullmatch(key):
            low, high = map(int, between.groups())
            # The circle itself belongs to the last ring, so that the rings of a record add up to its hits.
            found[key] = int(((radii >= low) & (radii < high if high < RADIUS else radii <= high)).sum())
    return found


def sidecar(image: Path) -> Path:
    """Return where the record of an image is."""
    return image.with_suffix(".json")


def write(image: Path, record: dict[str, float]) -> None:
    """Write the record of an image beside it."""
    sidecar(image).write_text(json.dumps({"record": record}) + "\n", encoding="utf-8")


def read(image: Path) -> dict[str, float]:
    """Return the record of an image.

    Raises:
        DataError: If there is none, or a value of it is no finite number.
    """
    file, expected = sidecar(image), 'a sidecar such as {"record": {"mu_x": 0.1}}'
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(str(image), f"{expected} beside it", f"no {file.name}") from error
    except (OSError, ValueError) as error:
        raise DataError(str(file), expected, str(error)) from error
    record = content.get("record") if isinstance(content, dict) else None
    if not isinstance(record, dict):
        raise DataError(str(file), expected, "no record" if record is None else record)
    for key, value in record.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise DataError(f"{file} {key}", "a finite number", value)
    return record
