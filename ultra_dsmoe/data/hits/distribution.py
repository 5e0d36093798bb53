"""Where the drill hits of each class lie, within an image and from one image to the next.

Source: [PFA] Table 1, [PFA] Eq. 9. Within an image the hits are normally distributed. The table has one mean and one
variance for each axis of a class and nothing on how images of a class differ: drawn from it alone, the record of every
image tells its class. The spread between images is ours. A quadratic discriminant that learns from 325 records then
reaches a macro F1 of about .85 on 2000 others; the best that the paper reports is .81.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

RADIUS = 20.0  # of the circle, in units of the table; what falls outside is no hit (our choice: six sd of the widest)
HITS = (300, 600)  # fewest and most in an image (our choice)
FEWEST = 3  # hits of an image whose spread and correlation can be told
MU_SPREAD = 1.3  # sd of an image's means about those of its class, at spread 1
LOG_VAR_SPREAD = 0.3  # the same of the logarithms of its variances
CORRELATION_SPREAD = 0.1  # the same of its correlation, by Fisher's transform


@dataclass(frozen=True)
class HitClass:
    """A row of the table.

    Attributes:
        count: Images of it among the paper's 455.
        mu: Mean of x and of y.
        var: Variance of x and of y.
        correlation: Between x and y, of either sign at random. The paper names none: .3, and none for the class that is
            stretched along an axis, are our choice.
    """

    count: int
    mu: tuple[float, float]
    var: tuple[float, float]
    correlation: float = 0.3


CLASSES = {
    "normal": HitClass(225, (0.04, -0.05), (3.71, 3.52)),
    "shifted_slightly": HitClass(92, (2.73, 0.59), (7.38, 5.52)),
    "shifted_far": HitClass(44, (6.43, -3.21), (8.27, 8.63)),
    "stretched": HitClass(50, (-1.10, 0.65), (8.14, 6.44), 0.0),
    "divergent": HitClass(44, (-0.21, -0.01), (9.44, 8.77)),
}


@dataclass(frozen=True)
class Normal:
    """Distribution of the hits of one image.

    Attributes:
        mean: Of x and y, (2,).
        cov: Their covariance, (2, 2).
    """

    mean: np.ndarray
    cov: np.ndarray

    @classmethod
    def of(cls, mean: np.ndarray, var: np.ndarray, correlation: float) -> Normal:
        """Return the distribution with these means, variances and this correlation: [PFA] Eq. 9."""
        shared = correlation * math.sqrt(var[0] * var[1])
        return cls(np.asarray(mean, float), np.array([[var[0], shared], [shared, var[1]]], float))


def draw_normal(kind: HitClass, rng: np.random.Generator, spread: float = 1.0) -> Normal:
    """Draw the distribution of one image of a class.

    Args:
        kind: The class.
        rng: Source of randomness.
        spread: Between images, as a multiple of ours; 0 gives the table as it is.
    """
    mean = np.array(kind.mu) + rng.normal(0, MU_SPREAD, 2) * spread
    var = np.array(kind.var) * np.exp(rng.normal(0, LOG_VAR_SPREAD, 2) * spread)
    centre = rng.choice([-1, 1]) * math.atanh(kind.correlation)
    return Normal.of(mean, var, math.tanh(centre + rng.normal(0, CORRELATION_SPREAD) * spread))


def draw_points(normal: Normal, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the hits of one image: [PFA] Eq. 10.

    Args:
        normal: Their distribution.
        count: How many drops of the drill there are.
        rng: Source of randomness.

    Returns:
        Those inside the circle, (N, 2) with N up to ``count``; x to the right, y upwards.
    """
    # Not rng.multivariate_normal: its root of the covariance may have other signs on another machine.
    points = normal.mean + rng.normal(size=(count, 2)) @ np.linalg.cholesky(normal.cov).T
    return points[np.hypot(points[:, 0], points[:, 1]) <= RADIUS]


def class_of_each(count: int) -> list[str]:
    """Return the classes of the images of a split, in the order in which they are drawn.

    The next image goes to the class whose share is owed most, by Huntington and Hill's rule: every beginning of the
    list has the table's shares as nearly as its length allows, and the first five are one of each class.
    """
    given, classes = dict.fromkeys(CLASSES, 0), []
    for _ in range(count):
        name = max(CLASSES, key=lambda n: CLASSES[n].count / math.sqrt(given[n] * (given[n] + 1) or 1e-9))
        given[name] += 1
        classes.append(name)
    return classes
