"""Compare two models that were trained with the same seeds and validated on the same images.

The difference of one pair is that of the two mAPs with equal seed; the difference of two models is its mean over seeds.

Interval: images (whole groups of them, where boards or tiles are known) are drawn with replacement, the same for both
models and all seeds, and seeds are drawn with replacement. Few seeds drawn like that spread too little, by the
factor (S - 1) / S in variance, so their part is stretched; and few values know their own spread badly, so the ends are
taken from Student's t with the degrees of freedom of Welch and Satterthwaite instead of from percentiles. With one seed
the interval is over images alone, and there is no verdict: equal trainings differ by more than such intervals say. The
luck of one training on one image counts in both parts. Where trainings are alike, that makes intervals too wide (98 to
99 % hold the truth); where they differ as real ones do, it makes up for the guessed degrees of freedom (93 to 95 % at
three seeds), so it is left.

p: under "it does not matter which of the two nets saw an image", swapping their matches of an image changes nothing.
A group's images are swapped together, in all seeds alike. It is about these trained nets: the interval alone knows that
another training would have given others. A difference is claimed where both say so: interval clear of zero, and p after
Holm's correction over all comparisons of a study at most 0.05. Points are hundredths of mAP,
or of a classifier's macro F1 and accuracy.

Power: with three seeds, 360 images and equal trainings that lie up to 2.8 points of mAP50 apart, as on our data,
simulated studies found a true difference of 2, 4 and 6 points in about 15, 50 and 80 of 100. Only more seeds help much:
the intervals reach about 3.5 points to either side with three of them, 2.4 with five and 1.5 with ten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy import stats as distributions

from ultra_dsmoe.errors import DataError
from ultra_dsmoe.evaluate.class_stats import ClassStats
from ultra_dsmoe.evaluate.evaluation import ImageStats

from .task import DETECT, Detection

BOOT = 1000  # resamples, and swaps (our choice)
LEVEL = 0.05  # of a false verdict
TIE = 1e-12  # differences closer than this are equal: sums in another order

Runs = Sequence[Any]  # one per seed, all of the same images: matches, or a classifier's classes


class Estimate(NamedTuple):
    """A mean and its 95 % interval, each of both measures, (2,)."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """One model beside another one on one data set in one measure.

    Attributes:
        data: Data set.
        model: The model.
        baseline: The other one.
        measure: One of the study's two.
        difference: Model minus baseline, in points.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p: Of the permutation test.
        p_holm: The same after Holm's correction.
        seeds: Pairs of trainings.
    """

    data: str
    model: str
    baseline: str
    measure: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    seeds: int

    @property
    def verdict(self) -> str:
        """The sentence that the interval allows."""
        if self.seeds < 2:  # the interval does not know how much another training would differ
            return f"no verdict on one seed ({self.low:+.1f} to {self.high:+.1f} points over images)"
        if self.low <= 0 <= self.high:
            return f"no evidence of a difference ({self.low:+.1f} to {self.high:+.1f} points)"
        if self.p_holm > LEVEL:
            return f"no evidence of a difference after correction ({self.low:+.1f} to {self.high:+.1f} points)"
        if self.low > 0:
            return f"better by {self.low:.1f} to {self.high:.1f} points"
        return f"worse by {-self.high:.1f} to {-self.low:.1f} points"


def draw_images(groups: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return how often each image is drawn in each resample, whole groups at once, (count, I)."""
    n = int(groups.max()) + 1
    return rng.multinomial(n, np.full(n, 1 / n), size=count)[:, groups]


def estimate(points: np.ndarray, resampled: np.ndarray, groups: int, rng: np.random.Generator) -> Estimate:
    """Return the mean over seeds with its interval.

    Args:
        points: Values on all images, one per seed, (S, 2).
        resampled: The same on resampled images, (S, R, 2).
        groups: Number of independent groups of images.
        rng: Draws seeds.
    """
    s, mean = len(points), points.mean(0)
    by_images = resampled.mean(0)  # (R, 2)
    of_images, of_seeds, by_seeds = by_images.var(0), np.zeros(2), 0.0
    if s > 1:
        of_seeds = points.var(0, ddof=1) / s
        drawn = points[rng.integers(s, size=(len(by_images), s))].mean(1)  # (R, 2)
        by_seeds = np.sqrt(s / (s - 1)) * (drawn - mean)
    error = (by_images + by_seeds).std(0)
    parts = of_images**2 / max(groups - 1, 1) + of_seeds**2 / max(s - 1, 1)
    freedom = np.divide((of_images + of_seeds) ** 2, parts, out=np.full(2, np.inf), where=parts > 0)
    reach = distributions.t.ppf(1 - LEVEL / 2, freedom) * error
    return Estimate(mean, mean - reach, mean + reach)


def swap_p(
    model: Runs,
    baseline: Runs,
    groups: np.ndarray,
    count: int,
    rng: np.random.Generator,
    task: Detection = DETECT,
) -> np.ndarray:
    """Return the two-sided p of both measures under swaps of the two nets' matches, or classes, (2,)."""
    swap = rng.integers(2, size=(count, int(groups.max()) + 1))[:, groups]  # (R, I)
    swap[0] = 0  # as it is
    total = np.zeros((count, 2))
    for mine, other in zip(model, baseline, strict=True):
        both = task.beside(mine, other)
        # Every image stands there twice, once per net: one of the two is drawn, and so are its labels, once.
        total += task.replicates(both, np.concatenate([1 - swap, swap], 1))
        total -= task.replicates(both, np.concatenate([swap, 1 - swap], 1))
    return (np.abs(total) >= np.abs(total[0]) - TIE).mean(0)


def holm(p: Sequence[float]) -> np.ndarray:
    """Return p-values corrected for their number by Holm's step-down method."""
    values = np.asarray(p, float)
    order = np.argsort(values)
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(steps, 1)
    return corrected


@dataclass(frozen=True)
class DataSet:
    """All runs on one data set: by model, by seed; each with the matches of the same images in the same order."""

    name: str
    runs: Mapping[str, Mapping[int, ImageStats | ClassStats]]
    groups: np.ndarray
    task: Detection = DETECT

    def check(self) -> None:
        """Refuse runs that did not see the same images with the same labels.

        Raises:
            DataError: If one saw others.
        """
        everything = [(f"{m}, seed {s}", r) for m, by_seed in self.runs.items() for s, r in by_seed.items()]
        first, reference = everything[0]
        for who, run in everything[1:]:
            if not self.task.same(run, reference):
                raise DataError(f"{self.name}: {who}", f"the images and labels that {first} was validated on", "others")


def judge(
    sets: Sequence[DataSet], pairs: Sequence[tuple[str, str]], boot: int = BOOT, seed: int = 0
) -> tuple[dict[tuple[str, str], Estimate], list[Comparison]]:
    """Judge a study.

    Args:
        sets: Its data sets.
        pairs: Models, each with the one that it is compared with, over the seeds that both have.
        boot: Resamples; swaps are as many, or more where there is much to correct for.
        seed: Of both.

    Returns:
        Both measures within [0, 1] by (data, model), and the comparisons: two per data set and pair.

    Raises:
        DataError: If two runs did not see the same images.
    """
    means, found = {}, []
    # The smallest p of so many swaps must survive the correction, with room to spare.
    swaps = max(boot, round(2 * 2 * len(sets) * len(pairs) / LEVEL))
    for data in sets:
        data.check()
        rng = np.random.default_rng(seed)
        counts, n = draw_images(data.groups, boot, rng), int(data.groups.max()) + 1
        task = data.task
        points = {m: {s: task.score(r) for s, r in by.items()} for m, by in data.runs.items()}
        drawn = {m: {s: task.replicates(r, counts) for s, r in by.items()} for m, by in data.runs.items()}
        for model in data.runs:
            each = np.stack(list(points[model].values()))
            means[data.name, model] = estimate(each, np.stack(list(drawn[model].values())), n, rng)
        for model, other in pairs:
            seeds = [s for s in data.runs.get(model, {}) if s in data.runs.get(other, {})]
            if not seeds:
                continue
            change = np.stack([points[model][s] - points[other][s] for s in seeds])
            spread = np.stack([drawn[model][s] - drawn[other][s] for s in seeds])
            e = estimate(change, spread, n, rng)
            ours, theirs = ([data.runs[m][s] for s in seeds] for m in (model, other))
            p = swap_p(ours, theirs, data.groups, swaps, rng, task)
            for i, measure in enumerate(task.measures):
                mean, low, high = (100 * float(v[i]) for v in e)
                found.append(
                    Comparison(data.name, model, other, measure, mean, low, high, float(p[i]), 1.0, len(seeds))
                )
    judged = [i for i, c in enumerate(found) if c.seeds > 1]
    for i, p in zip(judged, holm([found[i].p for i in judged]), strict=True):
        found[i] = replace(found[i], p_holm=float(p))
    return means, found
