"""What a record says, whatever its keys are called: means, spreads, shape and radii of recorded points.

Known keys (in any case): ``mu_x`` or ``mean_x``; ``sd_x``, ``std_x`` or ``var_x``; ``cov_xy``; ``hits``, ``count``,
``total`` or ``n``; ``r0_2`` for the hits at a radius from 0 to 2. All other numbers are taken as they are.
"""

from __future__ import annotations

import math
import re

from ultra_dsmoe.text.providers.base import Record

SIDED = ("mean x", "mean y")  # quantities that are graded by their distance from 0
HITS = ("hits", "count", "total", "n")
HALF, MOST = 0.5, 0.9  # shares of the hits whose radius is told
_RING = re.compile(r"r(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)")
_MEAN = re.compile(r"(?:mu|mean)_([xy])")
_SPREAD = re.compile(r"(sd|std|var)_([xy])")
_LEAST = 1e-9  # below it a variance is none


def quantities(record: Record) -> dict[str, float]:
    """Return what a record says, by spoken names.

    Args:
        record: Numbers by their keys.

    Returns:
        ``mean x``, ``mean y``, ``distance`` (of the mean from 0), ``sd x``, ``sd y``, ``spread`` (root of the mean
        variance), ``stretch`` (log of the variance in x over that in y), ``tilt`` (2 atanh of the correlation),
        ``hits``, ``half radius`` and ``reach`` (radii within which a half and nine tenths of the hits lie), and every
        other number; only what the record has.
    """
    found: dict[str, float] = {}
    rings: dict[tuple[float, float], float] = {}
    covariance = None
    for key, value in record.items():
        name = key.strip().lower()
        if ring := _RING.fullmatch(name):
            rings[float(ring[1]), float(ring[2])] = value
        elif mean := _MEAN.fullmatch(name):
            found[f"mean {mean[1]}"] = value
        elif spread := _SPREAD.fullmatch(name):
            found[f"sd {spread[2]}"] = math.sqrt(max(value, 0.0)) if spread[1] == "var" else abs(value)
        elif name in HITS:
            found["hits"] = value
        elif name == "cov_xy":
            covariance = value
        else:
            found[name.replace("_", " ")] = value
    return found | _shape(found, covariance) | _radii(rings)


def _shape(found: dict[str, float], covariance: float | None) -> dict[str, float]:
    """Return what means and spreads of both axes say together."""
    shape: dict[str, float] = {}
    if "mean x" in found and "mean y" in found:
        shape["distance"] = math.hypot(found["mean x"], found["mean y"])
    if "sd x" in found and "sd y" in found:
        x, y = max(found["sd x"], _LEAST), max(found["sd y"], _LEAST)
        shape |= {"spread": math.hypot(x, y) / math.sqrt(2), "stretch": 2 * math.log(x / y)}
        if covariance is not None:
            shape["tilt"] = 2 * math.atanh(max(-0.999, min(0.999, covariance / (x * y))))
    return shape


def _radii(rings: dict[tuple[float, float], float]) -> dict[str, float]:
    """Return the radii within which a half and nine tenths of the hits lie, evenly spread inside a ring."""
    total = sum(rings.values())
    if total <= 0:
        return {}
    radii: dict[str, float] = {}
    for name, share in (("half radius", HALF), ("reach", MOST)):
        left = share * total
        for (inner, outer), count in sorted(rings.items()):
            if count > 0 and left <= count:
                radii[name] = inner + (outer - inner) * left / count
                break
            left -= count
        else:  # the last bits of the sums
            radii[name] = max(outer for (_, outer), count in rings.items() if count > 0)
    return radii
