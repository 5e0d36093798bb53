"""What the routing of a split says about its defects: shares, mutual information, and what chance would give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ultra_dsmoe.nn.neck.expert_gate import KINDS, UNIVERSAL

CLEAN = "(no defect)"


def kind(expert: int) -> str:
    """Return the kind of an expert by its number."""
    return KINDS[min(expert, UNIVERSAL)]


@dataclass(frozen=True)
class RoutingMap:
    """Which experts the images of a split were sent to.

    Attributes:
        rows: Class names; ``(no defect)`` last where the split has images without labels.
        present: Whether an image shows a class, (I, K); classes that no image shows are left out.
        weights: Gate weights, zero where an expert was not chosen, (I, N).
        own_class: Row of the class whose text an expert carries, -1 for none, (N,).
        shuffled: Mutual information after shuffling the images' routes, in bits, one entry per shuffle.
    """

    rows: list[str]
    present: np.ndarray
    weights: np.ndarray
    own_class: np.ndarray
    shuffled: np.ndarray

    @property
    def chosen(self) -> np.ndarray:
        """Whether an image was sent to an expert, (I, N)."""
        return self.weights > 0

    @property
    def usage(self) -> np.ndarray:
        """Share of all images sent to each expert, (N,)."""
        return self.chosen.mean(0)

    @property
    def share(self) -> np.ndarray:
        """Share of each class's images sent to each expert, (K, N)."""
        return self.present.T.astype(float) @ self.chosen / self.present.sum(0)[:, None]

    @property
    def mean_weight(self) -> np.ndarray:
        """Mean gate weight of each expert over each class's images, (K, N)."""
        return self.present.T.astype(float) @ self.weights / self.present.sum(0)[:, None]

    @property
    def bits(self) -> float:
        """Mutual information between class and expert, in bits."""
        return mutual_information(self.present, self.chosen)

    @property
    def class_bits(self) -> float:
        """What it takes to name a class, in bits: the most that an expert could tell."""
        share = (self.present / self.present.sum(1, keepdims=True)).mean(0)
        return float(-(share * np.log2(share)).sum())

    @property
    def depends_on_class(self) -> bool:
        """Whether routing says more about the class than 95 % of the shuffles do."""
        return self.bits > np.percentile(self.shuffled, 95)


def mutual_information(present: np.ndarray, chosen: np.ndarray) -> float:
    """Return how much knowing one expert of an image says about one of its classes, in bits.

    Every image weighs the same; its weight is spread evenly over its classes and over its experts.

    Args:
        present: Whether an image shows a class, (I, K), at least one per image.
        chosen: Whether an image was sent to an expert, (I, N), at least one per image.

    Returns:
        0 when classes share their experts, at most log2 of the number of classes.
    """
    by_class = present / present.sum(1, keepdims=True)
    by_expert = chosen / chosen.sum(1, keepdims=True)
    return information(by_class.T @ by_expert / len(present))


def information(joint: np.ndarray) -> float:
    """Return the mutual information of two variables in bits, from their joint distribution, (K, N) summing to 1."""
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    filled = joint > 0
    bits = (joint[filled] * np.log2(joint[filled] / independent[filled])).sum()
    return max(0.0, float(bits))  # rounding may leave a hair below


def routing_map(
    weights: np.ndarray, labels: list[np.ndarray], names: list[str], *, text: bool, shuffles: int, seed: int
) -> RoutingMap:
    """Join routes and labels.

    Args:
        weights: Gate weights per image, (I, N).
        labels: Labelled classes of each image, one entry per object.
        names: Class names.
        text: Whether the gate's experts carry the text of a class.
        shuffles: How often to shuffle routes between images.
        seed: Of the shuffles.
    """
    present = np.stack([np.bincount(c.astype(int), minlength=len(names)) > 0 for c in labels])  # (I, K)
    present = np.concatenate([present, ~present.any(1, keepdims=True)], 1)
    shown = np.flatnonzero(present.any(0))
    row = {int(c): i for i, c in enumerate(shown)}
    experts = np.arange(weights.shape[1])
    own = np.array([row.get((n - UNIVERSAL) % len(names), -1) if text and n >= UNIVERSAL else -1 for n in experts])
    present, chosen = present[:, shown], weights > 0
    rng = np.random.default_rng(seed)
    shuffled = [mutual_information(present, chosen[rng.permutation(len(chosen))]) for _ in range(shuffles)]
    return RoutingMap([[*names, CLEAN][c] for c in shown], present, weights, own, np.array(shuffled))
