"""Average precision over resampled images: against the host on repeated images, and what intervals then say."""

from typing import Any

import numpy as np
import pytest
from ultralytics.utils.metrics import ap_per_class

from ultra_dsmoe.evaluate import bootstrap
from ultra_dsmoe.evaluate.bootstrap import hits_needed, interval, mean_ap, mean_f1, replicates, resamples
from ultra_dsmoe.evaluate.evaluation import ImageStats
from ultra_dsmoe.explain.knockout import verdict

CLASSES = 3


def fake_stats(images: int = 40, seed: int = 0, skill: float = 0.7) -> Any:
    """Return stats in which a label is found with probability ``skill`` and a detection is false as often as right.

    Some images have no label, some no detection.
    """
    rng = np.random.default_rng(seed)
    stats = ImageStats(files=[f"{i}.png" for i in range(images)])
    for _ in range(images):
        labels = rng.integers(0, CLASSES, int(rng.integers(0, 9))).astype(float)
        found = labels[rng.random(len(labels)) < skill]
        false = rng.integers(0, CLASSES, int(rng.integers(0, 8))).astype(float)
        iou = np.concatenate([rng.uniform(0.5, 1, len(found)), np.zeros(len(false))])
        stats.tp.append(iou[:, None] >= np.linspace(0.5, 0.95, 10))
        stats.conf.append(np.clip(0.4 + 0.3 * iou + rng.normal(0, 0.15, len(iou)), 0.001, 0.999))
        stats.pred_cls.append(np.concatenate([found, false]))
        stats.target_cls.append(labels)
    return stats


def repeated(stats: Any, counts: Any) -> ImageStats:
    """Return stats in which every image physically stands as often as it was drawn."""
    drawn = np.repeat(np.arange(len(counts)), counts)
    names = ("files", "tp", "conf", "pred_cls", "target_cls")
    return ImageStats(*([getattr(stats, name)[i] for i in drawn] for name in names))


def reference_ap(hit: Any, labels: Any, *, ramps: Any) -> Any:
    """Return the area under the 101 interpolated points of one curve, written out with ``np.interp``."""
    recall, precision = hit.cumsum() / labels, hit.cumsum() / np.arange(1, len(hit) + 1)
    r, p = [0, *recall, *([] if ramps else [recall[-1]]), 1], [1, *precision, *([] if ramps else [0]), 0]
    envelope = [max(p[i:]) for i in range(len(p))]
    x = np.linspace(0, 1, 101)
    y = np.interp(x, r, envelope)
    return ((y[1:] + y[:-1]) / 2 * 0.01).sum()


def test_undrawn_sample_is_the_hosts_own_value() -> None:
    stats = fake_stats()
    np.testing.assert_allclose(replicates(stats, np.ones((1, 40), int))[0], mean_ap(stats), rtol=1e-12)
    assert 0.1 < mean_ap(stats)[1] < mean_ap(stats)[0] < 0.9


def test_f1_by_hand() -> None:
    """Four labels of class 0, of which three detections find two; the one of class 1 is found and counts as much."""
    hit = np.array([True, False, True, True])[:, None].repeat(10, 1)
    confidence, predicted = np.array([0.9, 0.8, 0.7, 0.9]), np.array([0.0, 0.0, 0.0, 1.0])
    labels = np.array([0.0, 0.0, 0.0, 0.0, 1.0])
    of_class_0 = 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)  # at 0.7 and below; 0.4 above 0.8
    stats = ImageStats(["a.png"], [hit], [confidence], [predicted], [labels])
    assert mean_f1(stats) == pytest.approx((of_class_0 + 1) / 2, abs=1e-6)


def test_resampled_value_is_the_hosts_on_repeated_images() -> None:
    stats, counts = fake_stats(), resamples(40, 30, seed=1)
    expected = [mean_ap(repeated(stats, row)) for row in counts]
    np.testing.assert_allclose(replicates(stats, counts), expected, rtol=1e-12)


def test_class_without_labels_in_a_resample_does_not_count_there() -> None:
    stats = fake_stats(images=4)
    stats.target_cls = [np.array([0.0, 0.0]), np.array([1.0]), np.zeros(0), np.array([0.0])]
    counts = np.array([[2, 0, 1, 1], [0, 4, 0, 0], [0, 0, 4, 0]])
    got = replicates(stats, counts)
    np.testing.assert_allclose(got[:2], [mean_ap(repeated(stats, row)) for row in counts[:2]], rtol=1e-12)
    assert not got[2].any()  # nothing labelled was drawn


@pytest.mark.parametrize("ramps", [False, True])
@pytest.mark.parametrize("labels", [7, 30, 100])
def test_one_curve_against_interp(monkeypatch: pytest.MonkeyPatch, ramps: bool, labels: int) -> None:
    monkeypatch.setattr(bootstrap, "host_ramps", lambda: ramps)
    rng = np.random.default_rng(labels)
    hit = (rng.random(60) < np.linspace(0.9, 0.02, 60)) & (np.arange(60) < 55)
    hit[np.flatnonzero(hit)[labels:]] = False
    counts = np.array([[1], [3]])
    got = bootstrap.class_ap(hit[:, None], np.zeros(60, int), counts.astype(float), labels * counts[:, 0])
    expected = [reference_ap(np.repeat(hit, n), labels * n, ramps=ramps) for n in (1, 3)]
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-12)


def test_host_ramp_is_recognised() -> None:
    tp, conf = np.array([[True]]), np.array([0.9])
    (ap,) = ap_per_class(tp, conf, np.zeros(1), np.zeros(2))[5]  # one of two objects found, nothing wrong
    assert bootstrap.host_ramps() == (ap[0] > 0.6)


def test_hits_needed_by_hand() -> None:
    need = hits_needed(np.array([2, 10]))
    assert need[0, [0, 49, 50, 99, 100]].tolist() == [1, 1, 2, 2, 3]  # 1 of 2 is not above one half
    assert need[1, [0, 9, 10, 11, 100]].tolist() == [1, 1, 2, 2, 11]
    n = np.arange(1, 400)
    need, levels = hits_needed(n), np.linspace(0, 1, 101)
    assert (need / n[:, None] > levels).all()
    assert ((need - 1) / n[:, None] <= levels).all()


def test_no_detection_or_no_hit_gives_zero() -> None:
    stats = fake_stats(images=5)
    for name, empty in (("tp", np.zeros((0, 10), bool)), ("conf", np.zeros(0)), ("pred_cls", np.zeros(0))):
        setattr(stats, name, [empty] * 5)
    assert not replicates(stats, resamples(5, 10, 0)).any()
    stats = fake_stats(images=5, skill=0)
    assert not replicates(stats, resamples(5, 10, 0)).any()


def test_resamples_draw_as_many_images_as_there_are_and_repeat_by_seed() -> None:
    counts = resamples(20, 500, seed=3)
    assert counts.shape == (500, 20)
    assert (counts.sum(1) == 20).all()
    assert abs((counts == 0).mean() - (1 - 1 / 20) ** 20) < 0.02
    np.testing.assert_array_equal(counts, resamples(20, 500, seed=3))
    assert not np.array_equal(counts, resamples(20, 500, seed=4))


def change(on: Any, off: Any, count: int = 400) -> Any:
    counts = resamples(len(on.files), count, 0)
    low, high = interval(100 * (replicates(off, counts) - replicates(on, counts))[:, 0])
    return 100 * (mean_ap(off) - mean_ap(on))[0], low, high


def test_identical_stats_differ_by_exactly_nothing() -> None:
    assert change(fake_stats(), fake_stats()) == (0, 0, 0)
    assert verdict(0, 0, 0) == "inert"


def test_planted_difference_is_found_in_both_directions() -> None:
    on, off = fake_stats(images=120), fake_stats(images=120)
    rng = np.random.default_rng(9)
    off.tp = [t & (rng.random((len(t), 1)) < 0.7) for t in off.tp]
    lost, low, high = change(on, off)
    assert low < lost < high < 0
    assert lost < -1
    assert verdict(lost, low, high) == "earns its place"
    assert verdict(*change(off, on)) == "hurts"


def test_pairing_narrows_the_interval() -> None:
    on, off = fake_stats(), fake_stats()
    off.tp[0] = np.zeros_like(off.tp[0])
    counts, others = resamples(40, 400, 0), resamples(40, 400, 1)
    paired = np.ptp(interval((replicates(off, counts) - replicates(on, counts))[:, 0]))
    unpaired = np.ptp(interval((replicates(off, counts) - replicates(on, others))[:, 0]))
    assert paired < unpaired / 3


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((-3.0, -5.0, -1.0), "earns its place"),
        ((-1.0, -2.0, -0.01), "earns its place"),
        ((-3.0, -7.0, 0.0), "unclear"),
        ((-1.2, -3.0, 0.5), "unclear"),
        ((-0.99, -1.5, -0.5), "inert"),
        ((0.0, 0.0, 0.0), "inert"),
        ((0.4, -0.2, 1.0), "inert"),
        ((0.4, 0.1, 1.0), "hurts"),
        ((4.0, 2.0, 6.0), "hurts"),
    ],
)
def test_verdicts(numbers: Any, expected: str) -> None:
    assert verdict(*numbers) == expected
