"""Graded words for numbers: which of five a number gets depends on how it compares with the training half's.

Bounds are quintiles of the training half, so that each word is said of about a fifth of it, whatever the unit.
Numbers themselves are said rounded to a step, as "0.13" and "0.14" share nothing for an encoder that reads spelling.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ultra_dsmoe.errors import TextError

QUINTILES = (0.2, 0.4, 0.6, 0.8)
STEPS = 12  # most steps between the outer two quintiles (our choice): of evenly spread numbers from 0 to 10 it is 0.5
Bounds = dict[str, list[float]]


class Grades:
    """What is usual of a set of named numbers.

    Args:
        bounds: Quintiles of each number.
        steps: What each number is rounded to.
    """

    def __init__(self, bounds: Mapping[str, list[float]], steps: Mapping[str, float]) -> None:
        self.bounds, self.steps = dict(bounds), dict(steps)

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, float]], sided: Iterable[str] = ()) -> Grades:
        """Learn bounds and steps of all numbers that differ between the rows.

        Args:
            rows: Named numbers of each image; a row may lack some.
            sided: Names of which the distance from 0 is graded; the sign says the side.
        """
        columns: dict[str, list[float]] = {}
        for row in rows:
            for name, value in row.items():
                columns.setdefault(name, []).append(abs(value) if name in sided else value)
        varied = {name: values for name, values in sorted(columns.items()) if min(values) < max(values)}
        bounds = {name: [_short(q) for q in np.quantile(values, QUINTILES)] for name, values in varied.items()}
        return cls(bounds, {name: _step(values) for name, values in varied.items()})

    def __contains__(self, name: str) -> bool:
        """Whether a number of this name varied in the training half."""
        return name in self.bounds

    def grade(self, name: str, value: float) -> int:
        """Return how many of the four bounds a number lies above: 0 to 4."""
        return sum(value > bound for bound in self.bounds[name])

    def rounded(self, name: str, value: float) -> str:
        """Return a number rounded to its step, without a sign where that is 0."""
        step = self.steps[name]
        return f"{_short(round(value / step) * step) + 0.0:g}"

    def state(self) -> dict[str, Any]:
        """Return bounds and steps, JSON-like."""
        return {"bounds": self.bounds, "steps": self.steps}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Grades:
        """Rebuild from `state`.

        Raises:
            TextError: If it is something else.
        """
        try:
            bounds = {str(name): [float(b) for b in values] for name, values in state["bounds"].items()}
            steps = {str(name): float(step) for name, step in state["steps"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise TextError(
                "rules", "bounds and steps as they were kept", f"{type(e).__name__} in {state!r}"[:80]
            ) from e
        if bounds.keys() != steps.keys() or any(len(b) != len(QUINTILES) for b in bounds.values()):
            raise TextError("rules", f"{len(QUINTILES)} bounds and a step of each number", "others")
        return cls(bounds, steps)


def _step(values: list[float]) -> float:
    """Return the least of 1 or 5 times a power of ten that cuts the middle three fifths into at most `STEPS`."""
    low, high = np.quantile(values, (QUINTILES[0], QUINTILES[-1]))
    width = float(high - low) or max(values) - min(values)
    power = 10.0 ** math.floor(math.log10(width / STEPS))
    return next(_short(step) for step in (power, 5 * power, 10 * power) if width / step <= STEPS * (1 + 1e-9))


def _short(value: float) -> float:
    """Return a number to 6 digits: the last bits of sums differ between machines, texts must not."""
    return float(f"{value:.6g}")
