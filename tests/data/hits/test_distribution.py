"""Where hits lie: the table's means and covariances, the spread between images, shares of the classes."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from ultra_dsmoe.data.hits.distribution import (
    CLASSES,
    CORRELATION_SPREAD,
    LOG_VAR_SPREAD,
    MU_SPREAD,
    RADIUS,
    Normal,
    class_of_each,
    draw_normal,
    draw_points,
)

KINDS = pytest.mark.parametrize("name", CLASSES)
IMAGES = 2000


@KINDS
def test_hits_have_the_mean_and_covariance_of_the_table(name: str) -> None:
    """Within three standard errors, at no spread between images; the sign of the correlation is that of the image."""
    kind, n, rng = CLASSES[name], 100_000, np.random.default_rng(2)
    normal = draw_normal(kind, rng, spread=0)
    points = draw_points(normal, n, rng)
    assert len(points) > n * 0.999
    cov, (vx, vy) = np.cov(points.T), kind.var
    assert points.mean(0) == pytest.approx(kind.mu, abs=3 * math.sqrt(max(kind.var) / n))
    assert cov[0, 0] == pytest.approx(vx, abs=3 * vx * math.sqrt(2 / n))
    assert cov[1, 1] == pytest.approx(vy, abs=3 * vy * math.sqrt(2 / n))
    rho = kind.correlation
    assert abs(cov[0, 1]) == pytest.approx(rho * math.sqrt(vx * vy), abs=3 * math.sqrt(vx * vy * (1 + rho**2) / n))


@KINDS
@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0])
def test_images_spread_about_their_class_as_asked(name: str, spread: float) -> None:
    kind, rng = CLASSES[name], np.random.default_rng(3)
    drawn = [draw_normal(kind, rng, spread) for _ in range(IMAGES)]
    means, covs = np.array([d.mean for d in drawn]), np.array([d.cov for d in drawn])
    log_var = np.log(covs[:, [0, 1], [0, 1]])
    for values, centre, sd in (
        (means, kind.mu, MU_SPREAD * spread),
        (log_var, np.log(kind.var), LOG_VAR_SPREAD * spread),
    ):
        assert values.mean(0) == pytest.approx(centre, abs=4 * sd / math.sqrt(IMAGES) + 1e-9)
        assert values.std(0) == pytest.approx(sd, rel=4 / math.sqrt(2 * IMAGES), abs=1e-9)


@KINDS
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_correlations_spread_about_that_of_their_class_on_either_side(name: str, spread: float) -> None:
    kind, rng = CLASSES[name], np.random.default_rng(4)
    covs = np.array([draw_normal(kind, rng, spread).cov for _ in range(IMAGES)])
    size = np.arctanh(covs[:, 0, 1] / np.sqrt(covs[:, 0, 0] * covs[:, 1, 1]))
    sd = math.hypot(CORRELATION_SPREAD * spread, math.atanh(kind.correlation))  # of two sides together
    assert size.mean() == pytest.approx(0, abs=4 * sd / math.sqrt(IMAGES) + 1e-9)
    assert size.std() == pytest.approx(sd, rel=4 / math.sqrt(2 * IMAGES), abs=1e-9)
    if kind.correlation:
        assert (np.abs(size) > 0.15).mean() > 0.9  # near none are those of the stretched class


def test_what_falls_outside_the_circle_is_no_hit() -> None:
    edge = Normal.of(np.array([RADIUS, 0.0]), np.array([4.0, 4.0]), 0.0)
    points = draw_points(edge, 4000, np.random.default_rng(0))
    assert 0.42 < len(points) / 4000 < 0.5  # the circle bends away from half of them
    assert np.hypot(*points.T).max() <= RADIUS


# shares


def test_as_many_images_as_the_paper_has_are_those_of_its_table() -> None:
    assert Counter(class_of_each(455)) == {name: kind.count for name, kind in CLASSES.items()}


@pytest.mark.parametrize("count", [5, 31, 130, 325, 2000])
def test_shares_are_as_near_as_the_number_allows(count: int) -> None:
    found = Counter(class_of_each(count))
    assert set(found) == set(CLASSES)
    for name, kind in CLASSES.items():
        assert abs(found[name] - max(1, kind.count / 455 * count)) < (1 if count > 30 else 2.5), name


def test_a_longer_list_begins_with_a_shorter_one() -> None:
    assert class_of_each(400)[:123] == class_of_each(123)
    assert sorted(class_of_each(5)) == sorted(CLASSES)
