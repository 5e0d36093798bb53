"""Phases of a classifier's training: warm-up, stages of progressive alignment, fusion.

Source: [PFA] Sec. 3.3 and 4.1: 30 epochs of warm-up, 15 for each of five stages, 60 of fusion. Here these are shares of
the epochs that the user asks for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from ultra_dsmoe.model.pair_options import PairOptions
from ultra_dsmoe.nn.head.pair_classify import ALIGNMENT, FUSION, WARM_UP


class Stage(NamedTuple):
    """A run of epochs that train the same things on the same images.

    Attributes:
        phase: `WARM_UP`, `ALIGNMENT` or `FUSION`.
        number: Of the stage of alignment, from 1; 0 in the other phases.
        share: Of the training images, within (0, 1].
        first: Its first epoch, from 0.
        epochs: How many it has.
    """

    phase: str
    number: int
    share: float
    first: int
    epochs: int

    def has(self, epoch: int) -> bool:
        """Whether an epoch belongs to it."""
        return self.first <= epoch < self.first + self.epochs


def stages(epochs: int, options: PairOptions) -> list[Stage]:
    """Return the stages of a training, in order, without those that get no epoch.

    Fusion has at least one epoch, since it alone trains what is shipped. Where alignment has fewer epochs than stages,
    the first ones go.

    Args:
        epochs: Of the whole training.
        options: The net's.
    """
    warm, align, fuse = options.phases
    if options.pfa == "none":
        warm, align = warm + align, 0.0
    total = warm + align + fuse
    starts = [0, round(epochs * warm / total), round(epochs * (warm + align) / total)]
    fusion = min(starts[2], epochs - 1)
    alignment = min(starts[1], fusion)
    found = [Stage(WARM_UP, 0, 1.0, 0, alignment)]
    found += _alignment(alignment, fusion, (1.0,) if options.pfa == "direct" else options.strides)
    found.append(Stage(FUSION, 0, 1.0, fusion, epochs - fusion))
    return [stage for stage in found if stage.epochs]


def _alignment(first: int, end: int, strides: tuple[float, ...]) -> Iterator[Stage]:
    """Yield the stages of alignment; all have equally many epochs, up to one."""
    bounds = [first + math.floor((end - first) * j / len(strides)) for j in range(len(strides) + 1)]
    for j, (begin, stop) in enumerate(pairwise(bounds)):
        yield Stage(ALIGNMENT, j + 1, strides[j], begin, stop - begin)


def stage_at(plan: list[Stage], epoch: int) -> Stage:
    """Return the stage that an epoch belongs to; the last one's epochs do not end."""
    return next((stage for stage in plan if stage.has(epoch)), plan[-1])


def position(plan: list[Stage], epoch: int) -> float:
    """Return how much of its phase lies behind an epoch, within [0, 1): each phase has a learning rate of its own."""
    phase = stage_at(plan, epoch).phase
    of_phase = [stage for stage in plan if stage.phase == phase]
    length = sum(stage.epochs for stage in of_phase)
    return min((epoch - of_phase[0].first) / length, 1.0)
