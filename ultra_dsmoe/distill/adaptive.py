"""Weights of the loss terms, adapted once per epoch from what the terms did in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

RULES = ("ema", "paper", "none")

# Rule `ema`, our choice: how far a loss may lag behind its first epoch, pace, and the range of a weight. The
# range's ends give a largest ratio of 15 between any two weights.
_MAX_RATIO = 3.0
_PACE = 0.1
_LOW, _HIGH = 0.2, 3.0
_PAPER_LOW, _PAPER_HIGH = 0.05, 5.0  # rule `paper`: without bounds it overflows within ten epochs
_EPS = 1e-12  # of a first epoch's mean: a term that began at zero


def ema_weights(weights: Sequence[float], means: Sequence[float], first: Sequence[float]) -> list[float]:
    """Return weights that follow how slowly each loss falls: the slower, the larger, by a tenth per epoch.

    ``rho_i = clip(L_i / L_i of the first epoch, 0, 3); w = clip(0.9 w + 0.1 n softmax(rho), 0.2, 3)``, scaled to sum n.
    Positive, and the largest at most 15 times the smallest, whatever the losses do.

    Source: [TS] Eq. 18 repaired; printed, it diverges for constant losses.

    Args:
        weights: w of the epoch that ended.
        means: Mean loss of each term in it, >= 0.
        first: The same of the first epoch.
    """
    n = len(weights)
    rho = [min(max(mean / max(start, _EPS), 0.0), _MAX_RATIO) for mean, start in zip(means, first, strict=True)]
    total = sum(map(math.exp, rho))
    moved = [(1 - _PACE) * w + _PACE * n * math.exp(r) / total for w, r in zip(weights, rho, strict=True)]
    return _scaled([min(max(w, _LOW), _HIGH) for w in moved])


def paper_weights(weights: Sequence[float], means: Sequence[float]) -> list[float]:
    """Return ``softmax(L)_i n w_i``, scaled to sum n and then held within 0.05 and 5.

    Source: [TS] Eq. 18 as printed. Ours: the scaling and the bounds, since iterated it lets one weight grow without end
    and the others vanish; the largest loss is taken off before the exponential.
    """
    n, top = len(weights), max(means)
    grown = [math.exp(mean - top) for mean in means]
    total = sum(grown)
    moved = [n * g / total * w for g, w in zip(grown, weights, strict=True)]  # [TS] Eq. 18
    return [min(max(w, _PAPER_LOW), _PAPER_HIGH) for w in _scaled(moved)]


def _scaled(weights: list[float]) -> list[float]:
    total = sum(weights)
    return [w * len(weights) / total for w in weights]


class AdaptiveWeights:
    """The weights of a run: takes in the losses of every step, moves once per epoch.

    Plain numbers apart from the running sums, which live for one epoch: a checkpoint keeps `state` exactly, where a
    buffer would be averaged and halved with the net's weights.

    Attributes:
        names: Terms, in order.
        rule: One of `RULES`.
        weights: w of each term, in force now.
    """

    def __init__(self, names: Sequence[str], rule: str = "ema") -> None:
        """Start with all weights at 1."""
        assert rule in RULES, rule
        self.names, self.rule = tuple(names), rule
        self.weights = [1.0] * len(self.names)
        self._first: list[float] | None = None
        self._sums: Tensor | None = None

    def __getitem__(self, name: str) -> float:
        """Return the weight of a term."""
        return self.weights[self.names.index(name)]

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Take in the losses of a step, one number per term; none of them is read before the epoch ends."""
        terms = [losses[name].detach().float() for name in self.names]
        step = torch.stack([*terms, torch.ones_like(terms[0])])
        self._sums = step if self._sums is None else self._sums + step

    def end_epoch(self) -> None:
        """Move the weights by the epoch's means over all workers; stays where a loss was not finite."""
        sums, self._sums = self._sums, None
        if sums is None or self.rule == "none":
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        *totals, steps = sums.double().tolist()
        means = [total / steps for total in totals]
        if not all(map(math.isfinite, means)):
            return
        if self._first is None:
            self._first = means
        if self.rule == "ema":
            self.weights = ema_weights(self.weights, means, self._first)
        else:
            self.weights = paper_weights(self.weights, means)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "names": list(self.names),
            "rule": self.rule,
            "weights": list(self.weights),
            "first": None if self._first is None else list(self._first),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> AdaptiveWeights:
        """Return the weights that `state` was taken of."""
        made = cls(state["names"], state["rule"])
        made.weights = list(state["weights"])
        made._first = None if state["first"] is None else list(state["first"])
        return made
