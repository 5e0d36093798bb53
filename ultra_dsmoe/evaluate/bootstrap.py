"""Mean average precision over images drawn with replacement, all resamples at once.

Drawing an image twice doubles its detections and labels, so a resample is a vector of image weights. Sorting by
confidence is the same for all of them; what the precision-recall curve needs is, per resample, how many detections and
how many hits come before each hit: one matrix product and one running sum. The curve is integrated as the host does
it (101 recall levels), which a test compares with the host's ``ap_per_class`` on physically repeated images.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from ultralytics.utils.metrics import ap_per_class, compute_ap

from ultra_dsmoe.evaluate.evaluation import ImageStats

LEVELS = np.linspace(0, 1, 101)  # recall levels of the COCO integral, as in the host
_F1, _AP = 4, 5  # places of F1 by class and of the AP matrix among what `ap_per_class` returns
INTERVAL = (2.5, 97.5)  # percentiles of the 95 % interval


def mean_ap(stats: ImageStats) -> np.ndarray:
    """Return mAP50 and mAP50-95 of all images by the host's own function, (2,) within [0, 1]."""
    ap = ap_per_class(*_joined(stats))[_AP]  # (classes, 10)
    return np.array([ap[:, 0].mean(), ap.mean()])


def mean_f1(stats: ImageStats) -> float:
    """Return the classes' mean F1 at IoU 0.5, at the confidence where it is highest: that of the host's P and R."""
    return float(ap_per_class(*_joined(stats))[_F1].mean())


def resamples(images: int, count: int, seed: int) -> np.ndarray:
    """Return how often each image is drawn in each of ``count`` resamples, (count, images)."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=count)


def replicates(stats: ImageStats, counts: np.ndarray) -> np.ndarray:
    """Return mAP50 and mAP50-95 of every resample.

    Args:
        stats: Matches per image.
        counts: How often each image is drawn, (R, I).

    Returns:
        (R, 2) within [0, 1]; 0 for a resample without any labelled object. As in the host, a class without a label in
        a resample does not count there.
    """
    tp, conf, pred_cls, _ = _joined(stats)
    image = np.repeat(np.arange(len(stats.conf)), [len(c) for c in stats.conf])
    order = np.argsort(-conf)  # the host's own order, ties included
    tp, pred_cls, image = tp[order], pred_cls[order], image[order]
    weights = counts.astype(np.float64)
    total, classes = np.zeros((len(counts), 2)), np.zeros((len(counts), 1))
    for c in np.unique(np.concatenate(stats.target_cls)):
        labels = counts @ np.array([(t == c).sum() for t in stats.target_cls])  # (R,)
        mine = pred_cls == c
        ap = class_ap(tp[mine], image[mine], weights, labels)  # (R, 10)
        present = (labels > 0)[:, None]
        total += present * np.stack([ap[:, 0], ap.mean(1)], 1)
        classes += present
    return total / np.maximum(classes, 1)


def class_ap(tp: np.ndarray, image: np.ndarray, weights: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the average precision of one class in every resample.

    Only the ranks at which something is hit matter: between two hits precision falls, and the envelope that the
    integral uses is flat there.

    Args:
        tp: Hits by falling confidence, (D, T) for T IoU thresholds.
        image: Image of each detection, (D,).
        weights: How often each image is drawn, (R, I).
        labels: Labelled objects in each resample, (R,).

    Returns:
        (R, T) within [0, 1].
    """
    ranks = np.flatnonzero(tp.any(1))  # (U,)
    ap = np.zeros((len(weights), tp.shape[1]))
    if not len(ranks):
        return ap
    before = np.zeros((weights.shape[1], len(ranks)))  # detections of an image between two ranks
    upto = ranks[-1] + 1
    np.add.at(before, (image[:upto], np.searchsorted(ranks, np.arange(upto))), 1)
    drawn = np.maximum(weights @ before.cumsum(1), 1)  # (R, U)
    everything = np.maximum(weights @ np.bincount(image, minlength=weights.shape[1]), 1)  # (R,)
    hit = weights[:, image[ranks]]  # (R, U)
    need = hits_needed(labels)
    for j in range(tp.shape[1]):
        found = (hit * tp[ranks, j]).cumsum(1)
        envelope = np.maximum.accumulate((found / drawn)[:, ::-1], 1)[:, ::-1]
        level = _first_reaching(found, need, envelope)
        if host_ramps():
            level = np.maximum(level, _ramp(found[:, -1], everything, labels))
        ap[:, j] = (level[:, 1:] + level[:, :-1]).sum(1) * (LEVELS[1] - LEVELS[0]) / 2
    return ap


def hits_needed(labels: np.ndarray) -> np.ndarray:
    """Return the least number of hits whose recall lies above each of the 101 levels, (R,) -> (R, 101)."""
    n = np.maximum(labels, 1)[:, None]
    need = np.maximum(np.floor(LEVELS * n) - 1, 0)
    for _ in range(3):  # exact in floating point: counts up from just below
        need += need / n <= LEVELS
    return need


def _first_reaching(found: np.ndarray, need: np.ndarray, envelope: np.ndarray) -> np.ndarray:
    """Return the envelope at the first rank with enough hits, 0 where there is none, (R, 101)."""
    rows = np.arange(len(found))[:, None]
    step = max(found.max(), need.max()) + 1  # keeps the rows apart in one sorted sequence
    at = np.searchsorted((found + rows * step).ravel(), (need + rows * step).ravel()).reshape(need.shape)
    padded = np.concatenate([envelope, np.zeros((len(envelope), 1))], 1)
    return np.take_along_axis(padded, at - rows * found.shape[1], 1)


@lru_cache(maxsize=1)
def host_ramps() -> bool:
    """Whether precision falls in a straight line behind the last hit, as in older hosts, or at once, as in newer ones.

    Half of the objects found without a mistake then give 0.75, or 0.5.
    """
    return compute_ap([0.5], [1.0])[0] > 0.6


def _ramp(hits: np.ndarray, detections: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the straight line from the end of the curve to recall 1, precision 0, at the levels behind the end."""
    recall = (hits / np.maximum(labels, 1))[:, None]
    line = (hits / detections)[:, None] * (1 - LEVELS) / np.maximum(1 - recall, 1e-12)
    return np.where(recall <= LEVELS, line, 0)


def interval(difference: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of replicates, (R,)."""
    low, high = np.percentile(difference, INTERVAL)
    return float(low), float(high)


def _joined(stats: ImageStats) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    parts = (stats.tp, stats.conf, stats.pred_cls, stats.target_cls)
    tp, conf, pred_cls, target_cls = (np.concatenate(p) for p in parts)
    return tp, conf, pred_cls, target_cls
