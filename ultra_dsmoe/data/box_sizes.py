"""Sizes of a data set's boxes as the network meets them, and what they ask of image size, levels and head.

Source: [DSMoE] and its sibling papers cluster box sizes with K-means into anchors. Our heads have none, so the clusters
only tell what is in the set. Every limit below is our choice, with its reason; the host's assigner itself knows no
sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ultra_dsmoe.constants import SPLITS
from ultra_dsmoe.data.labelled import read_set, split_labels
from ultra_dsmoe.errors import ConfigError, DataError

IMGSZ, CLUSTERS = 640, 9  # three anchors for each of three levels, as in the papers
STRIDES = {"P2": 4, "P3": 8, "P4": 16, "P5": 32}
SAME_SIZE = 1  # decimal of a pixel to which sizes are compared: labels of one size differ by their rounding
# A level takes boxes of 4 to 8 of its strides (root of the area), about where YOLOv5 had its anchors. P2 then takes
# what COCO calls small, below 32 px.
CELLS = 4
# Below 16 px a box is tiny (J. Wang et al., Tiny Object Detection in Aerial Images, 2021): at most 2 x 2 cells of P3.
TINY = 16
P2_PAYS = 0.10  # share of tiny boxes from which a fourth level is worth its work
SMALL_QUANTILE = 0.05  # the image size is chosen for all but the smallest 5 %
MULTIPLE = 32  # of an image size: the largest stride
REG_MAX = 16  # of the heads: distances reach 15 strides
REACH_QUANTILE = 0.999  # one box in a thousand may be cut


@dataclass(frozen=True)
class Boxes:
    """Labelled boxes of a data set.

    Attributes:
        sizes: Width and height in pixels after the resize to ``imgsz``, (N, 2).
        longest: Longer side of the images as they are, in pixels, (I,).
        per_split: Boxes of each split that has labels.
        imgsz: Longer side of the images after the resize.
    """

    sizes: np.ndarray
    longest: np.ndarray
    per_split: dict[str, int]
    imgsz: int


@dataclass(frozen=True)
class Clusters:
    """Clusters of box sizes, smallest first: centres in pixels (C, 2), share of the boxes (C,) and members (N,)."""

    centres: np.ndarray
    shares: np.ndarray
    members: np.ndarray


@dataclass(frozen=True)
class Advice:
    """What the sizes ask for.

    Attributes:
        levels: Share of boxes on each level, of a head with P2 and of one without.
        tiny: Share of boxes below `TINY` pixels.
        p2: Whether a stride-4 level pays.
        small: The small quantile of the box sizes in pixels.
        imgsz: Image sizes at which that quantile reaches `TINY` pixels, and, for a head with P2, half of them.
        reach: Distance from the centre of a box to its farther side in strides of its level: quantile and maximum.
        reg_max: What the quantile needs.
    """

    levels: tuple[dict[str, float], dict[str, float]]
    tiny: float
    p2: bool
    small: float
    imgsz: tuple[int, int]
    reach: tuple[float, float]
    reg_max: int


def read_boxes(data: str, imgsz: int = IMGSZ) -> Boxes:
    """Read the labels of all splits with the host's own loader, which also checks them.

    Args:
        data: Data YAML, as ``yolo train data=`` takes it.
        imgsz: Longer side of the images after the resize.

    Raises:
        DataError: If the YAML, its images or its labels are missing, or no box is labelled.
    """
    per_split: dict[str, int] = {}
    sizes, longest = [], []
    content = read_set(data)
    for split in SPLITS:
        for label in split_labels(content, split, imgsz):
            height, width = label["shape"]
            scale = imgsz / max(height, width)  # as the host resizes: the longer side becomes imgsz
            sizes.append(label["bboxes"][:, 2:] * (width * scale, height * scale))
            longest.append(max(height, width))
            per_split[split] = per_split.get(split, 0) + len(label["bboxes"])
    boxes = np.concatenate(sizes) if sizes else np.zeros((0, 2))
    boxes = boxes[(boxes > 0).all(1)]  # the host's own transforms drop a box without area
    if not len(boxes):
        raise DataError("data", "labelled boxes in at least one split", f"{data}, without a single one")
    return Boxes(boxes.astype(np.float64), np.array(longest), {k: n for k, n in per_split.items() if n}, imgsz)


def cluster(sizes: np.ndarray, count: int | None = None, seed: int = 0) -> Clusters:
    """Cluster box sizes by K-means.

    Distances are taken between logarithms, where twice as wide is as far at 10 as at 300 pixels; in plain pixels the
    few large boxes would take most of the centres. A centre is thus a geometric mean.

    Args:
        sizes: Widths and heights in pixels, (N, 2), above 0.
        count: Clusters; when omitted `CLUSTERS`, or as many as there are different sizes.
        seed: Of the first centres.

    Raises:
        ConfigError: If fewer sizes are different than were asked for, or scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError as e:
        raise ConfigError("scikit-learn", "the package: pip install 'ultra-dsmoe[data]'", "none") from e
    different = len(np.unique(sizes.round(SAME_SIZE), axis=0))
    if count is None:
        count = min(CLUSTERS, different)
    elif count > different:
        raise ConfigError("clusters", f"at most {different}, the number of different box sizes", count)
    found = KMeans(count, n_init=10, random_state=seed).fit(np.log(sizes))
    order = np.argsort(found.cluster_centers_.sum(1))
    members = np.argsort(order)[found.labels_]
    shares = np.bincount(members, minlength=count) / len(sizes)
    return Clusters(np.exp(found.cluster_centers_[order]), shares, members)


def levels(sizes: np.ndarray, names: tuple[str, ...] = tuple(STRIDES)) -> np.ndarray:
    """Return the level of each box, as an index into ``names``: by the root of its area, see `CELLS`; (N, 2) -> (N,).

    Boxes too small or too large for any level belong to the nearest.
    """
    borders = [CELLS * STRIDES[name] for name in names[1:]]
    return np.searchsorted(borders, np.sqrt(sizes.prod(1)), side="right")


def advise(boxes: Boxes) -> Advice:
    """Say what the box sizes ask for."""
    side = np.sqrt(boxes.sizes.prod(1))  # (N,)
    names = tuple(STRIDES)
    shares = tuple(_shares(boxes.sizes, part) for part in (names, names[1:]))
    tiny = float((side < TINY).mean())
    small = float(np.quantile(side, SMALL_QUANTILE))
    wanted = [MULTIPLE * math.ceil(boxes.imgsz * target / small / MULTIPLE) for target in (TINY, TINY / 2)]
    # A head without P2 is the usual one; with P2 the smallest boxes move to a finer stride, far below the limit.
    strides = np.array([STRIDES[name] for name in names[1:]])[levels(boxes.sizes, names[1:])]
    reach = boxes.sizes.max(1) / 2 / strides
    quantile = float(np.quantile(reach, REACH_QUANTILE))
    return Advice(
        levels=(shares[0], shares[1]),
        tiny=tiny,
        p2=tiny >= P2_PAYS,
        small=small,
        imgsz=(wanted[0], wanted[1]),
        reach=(quantile, float(reach.max())),
        reg_max=math.ceil(quantile) + 1,
    )


def _shares(sizes: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    counts = np.bincount(levels(sizes, names), minlength=len(names)) / len(sizes)
    return dict(zip(names, counts.tolist(), strict=True))
