"""A second look at doubtful boxes: a classifier confirms the boxes of a score band or drops them, and changes nothing.

Safety comes first. A box at or above the band's upper end stays whatever the classifier says, and so does one whose
class the classifier does not know. The rule sees numbers alone; who gives the probabilities is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ultra_dsmoe.data.crops import BACKGROUND
from ultra_dsmoe.errors import ConfigError

# Our choice. From 0.5 on a detector is rarely wrong; trackers begin at 0.1, and below it a validation has hundreds of
# boxes an image that nobody is ever shown.
BAND = (0.1, 0.5)
LEAST = 0.2  # our choice: an escape costs more than a false call, so a box goes only against four fifths of certainty
UNKNOWN = -1  # column of a class that the classifier does not know
SHOWN = 6  # names in an error

Ask = Callable[[np.ndarray], np.ndarray]  # numbers of boxes (M,) -> the classifier's probabilities (M, K)


@dataclass(frozen=True)
class Rule:
    """When a box is doubtful, and what confirms it.

    Attributes:
        low: Score from which boxes are looked at; those below stay as they are.
        high: Score from which boxes are certain.
        least: Probability that confirms a box.
    """

    low: float = BAND[0]
    high: float = BAND[1]
    least: float = LEAST


@dataclass(frozen=True)
class SharedNames:
    """Which of a classifier's columns belongs to which class of a detector.

    Attributes:
        columns: Column of each class of the detector, `UNKNOWN` for a class that the classifier does not have, (nc,).
        background: Column of the places without a defect, None where there is none.
    """

    columns: np.ndarray
    background: int | None = None

    @classmethod
    def find(cls, detector: Mapping[int, str], classifier: Mapping[int, str]) -> SharedNames:
        """Match classes by name.

        Args:
            detector: Class number to name.
            classifier: Column to name; `BACKGROUND` is no class, unless the detector has it too.

        Raises:
            ConfigError: If they have no name in common.
        """
        places = {str(name).strip(): column for column, name in classifier.items()}
        names = [str(detector[number]).strip() for number in sorted(detector)]
        columns = np.array([places.get(name, UNKNOWN) for name in names])
        if (columns == UNKNOWN).all():
            expected = f"a classifier with at least one of the detector's classes ({_listed(names)})"
            raise ConfigError("dsmoe_verify", expected, f"one of {_listed(places)}")
        return cls(columns, None if BACKGROUND in names else places.get(BACKGROUND))

    def known(self, classes: np.ndarray) -> np.ndarray:
        """Return which boxes (N,) have a class that the classifier knows."""
        return self.columns[classes] != UNKNOWN

    def confidence(self, classes: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Return the probability that boxes are what they are called, (N,).

        With a background it is that of any defect: which one it is, is the detector's word.

        Args:
            classes: Of the boxes, (N,), all known.
            probabilities: The classifier's, (N, K).
        """
        if self.background is not None:
            return 1 - probabilities[:, self.background]
        return probabilities[np.arange(len(classes)), self.columns[classes]]


def verify(scores: np.ndarray, classes: np.ndarray, ask: Ask, names: SharedNames, rule: Rule) -> np.ndarray:
    """Return which boxes stay, (N,) of bool.

    Args:
        scores: Of the boxes, (N,).
        classes: Numbers of the detector's classes, (N,).
        ask: Gives the classifier's probabilities of the boxes with these numbers; called once, or not at all.
        names: Which column is which class.
        rule: Which boxes are doubtful, and what confirms them.
    """
    stays = np.ones(len(scores), dtype=bool)
    asked = np.flatnonzero((scores >= rule.low) & (scores < rule.high) & names.known(classes))
    if len(asked):
        # Not `>=`: what is no number speaks against no box.
        stays[asked] = ~(names.confidence(classes[asked], ask(asked)) < rule.least)
    return stays


def _listed(names: Iterable[str]) -> str:
    """Return names for an error, not all where there are many."""
    known = list(names)
    return ", ".join(known[:SHOWN]) + (f" and {len(known) - SHOWN} more" if len(known) > SHOWN else "")
