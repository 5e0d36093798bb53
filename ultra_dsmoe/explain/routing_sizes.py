"""What the routing of a split says about the sizes of its defects, and whether that is more than their classes say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ultra_dsmoe.explain.routing import RoutingMap, information

# Our choice: quarters of the split's own sizes. COCO's borders (32 and 96 px) put nearly all of DeepPCB at 320 px into
# one row; quarters fill every row alike, so that each says as much, whatever the set.
QUANTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class SizeMap:
    """Which experts the images with defects of each size were sent to.

    The gate decides once per image, so a row is no routing of defects: it is the images of the split, each weighted by
    its number of defects of that size.

    Attributes:
        ranges: Smallest and largest size of each size class in pixels, (S, 2); smallest first.
        counts: Defects of each size class in each image, (I, S).
        weights: Gate weights, zero where an expert was not chosen, (I, N).
        shuffled: Mutual information after shuffling the routes of images with defects, in bits, one entry per shuffle.
        shuffled_alike: The same where only images of the same classes exchange routes: what class alone explains.
        alike: Share of the defects in images that have another one of the same classes to exchange routes with.
    """

    ranges: np.ndarray
    counts: np.ndarray
    weights: np.ndarray
    shuffled: np.ndarray
    shuffled_alike: np.ndarray
    alike: float

    @property
    def rows(self) -> list[str]:
        """Name of each size class, such as ``12-18 px``."""
        return [f"{low:.0f}-{high:.0f} px" for low, high in self.ranges]

    @property
    def images(self) -> np.ndarray:
        """Images that show a defect of each size class, (S,)."""
        return (self.counts > 0).sum(0)

    @property
    def usage(self) -> np.ndarray:
        """Share of all images sent to each expert, (N,)."""
        return (self.weights > 0).mean(0)

    @property
    def share(self) -> np.ndarray:
        """Share of each size class's defects whose image was sent to each expert, (S, N)."""
        return self.counts.T @ (self.weights > 0) / self.counts.sum(0)[:, None]

    @property
    def mean_weight(self) -> np.ndarray:
        """Mean gate weight of each expert over each size class's defects, (S, N)."""
        return self.counts.T @ self.weights / self.counts.sum(0)[:, None]

    @property
    def bits(self) -> float:
        """Mutual information between size class and expert, in bits."""
        return size_information(self.counts, self.weights > 0)

    @property
    def size_bits(self) -> float:
        """What it takes to name the size class of a defect, in bits: the most that an expert could tell."""
        share = self.counts.sum(0) / self.counts.sum()
        return float(-(share * np.log2(share)).sum())

    @property
    def depends_on_size(self) -> bool:
        """Whether routing says more about the size than 95 % of the shuffles do."""
        return self.bits > np.percentile(self.shuffled, 95)

    @property
    def beyond_class(self) -> bool:
        """Whether it says more than 95 % of the shuffles between images of the same classes do."""
        return self.bits > np.percentile(self.shuffled_alike, 95)


def size_information(counts: np.ndarray, chosen: np.ndarray) -> float:
    """Return how much knowing one expert of a defect's image says about the size class of the defect, in bits.

    Every defect weighs the same, and is spread evenly over its image's experts.

    Args:
        counts: Defects of each size class in each image, (I, S).
        chosen: Whether an image was sent to an expert, (I, N), at least one per image.
    """
    by_expert = chosen / chosen.sum(1, keepdims=True)
    return information(counts.T @ by_expert / counts.sum())


def size_classes(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Part sizes at their quartiles; equal sizes stay together: fewer than four classes where one size prevails.

    Args:
        sizes: Root of the area of each defect in pixels, (D,), D > 0.

    Returns:
        Class of each defect, (D,), and smallest and largest size of each class, (S, 2).
    """
    borders = np.unique(np.quantile(sizes, QUANTILES))
    classes = np.unique(np.searchsorted(borders, sizes, side="right"), return_inverse=True)[1].reshape(-1)
    parts = [sizes[classes == c] for c in range(classes.max() + 1)]
    return classes, np.array([(part.min(), part.max()) for part in parts])


def size_map(routes: RoutingMap, sizes: list[np.ndarray], *, shuffles: int, seed: int) -> SizeMap:
    """Join routes and the sizes of the labelled defects.

    Args:
        routes: Routes and classes of the images.
        sizes: Root of the area of each image's defects in pixels, in the images' order.
        shuffles: How often to shuffle routes, for either kind of chance.
        seed: Of the shuffles.
    """
    classes, ranges = size_classes(np.concatenate(sizes))
    owner = np.repeat(np.arange(len(sizes)), [len(s) for s in sizes])
    counts = np.zeros((len(sizes), len(ranges)))
    np.add.at(counts, (owner, classes), 1)
    shown = counts.any(1)  # a route may not pass to an image without defects: it would leave the count
    held, chosen = counts[shown], routes.chosen[shown]
    groups = np.unique(routes.present[shown], axis=0, return_inverse=True)[1].reshape(-1)
    rng = np.random.default_rng(seed)
    anywhere = [size_information(held, chosen[rng.permutation(len(held))]) for _ in range(shuffles)]
    alike = [size_information(held, chosen[permuted_within(groups, rng)]) for _ in range(shuffles)]
    partnered = np.bincount(groups)[groups] > 1
    share = held[partnered].sum() / held.sum()
    return SizeMap(ranges, counts, routes.weights, np.array(anywhere), np.array(alike), float(share))


def permuted_within(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a random order that exchanges indices of the same group only, (I,) -> (I,)."""
    order = np.empty(len(groups), int)
    places = np.argsort(groups, kind="stable")
    order[places] = np.lexsort((rng.random(len(groups)), groups))
    return order
