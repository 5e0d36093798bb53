"""Class anchors and taxonomy of a trained net on a disk: true radii, and the angles that fit their distances best.

The ball has tens of dimensions and a page two. A linear projection would pull nodes towards the centre, and depth in
the tree is what the radius stands for; so every node keeps its distance to the centre exactly, and only the angles are
fitted to the distances between nodes (metric multidimensional scaling, radii held). What is lost on the way is measured
and belongs into the picture. Our choice; the ball itself is [DSMoE] Eq. 9-13.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STEPS = 360  # angles tried for a node: one degree, finer than a label shows
STARTS = 20  # of the fit; more found nothing better on ten nodes
SWEEPS = 100  # at most; a start settles within about ten
MIN_PAIRS = 3  # fewer distances have no order to keep
SHUFFLES = 1000
ROUNDING = 1e-9  # a shuffle that changes nothing adds up in another order


@dataclass(frozen=True)
class Disk:
    """Nodes on the Poincaré disk of curvature -1.

    Attributes:
        names: Classes, then groups.
        parents: Parent of each node, -1 for none, (M,).
        num_classes: How many of the nodes are classes, K.
        dimensions: Of the ball that the nodes come from.
        norms: Norm of each node's tangent vector at the origin, half its distance to the centre, (M,).
        ball: Distances between the nodes in the ball, (M, M).
        angles: Of the nodes on the disk, in radians, (M,).
    """

    names: list[str]
    parents: np.ndarray
    num_classes: int
    dimensions: int
    norms: np.ndarray
    ball: np.ndarray
    angles: np.ndarray

    @property
    def points(self) -> np.ndarray:
        """Nodes as complex numbers within the unit circle, (M,)."""
        return np.tanh(self.norms) * np.exp(1j * self.angles)

    @property
    def flat(self) -> np.ndarray:
        """Distances between the nodes on the disk, (M, M)."""
        return distance(self.points[:, None], self.points[None])

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Distance of every two nodes in the ball and on the disk, (M (M - 1) / 2,) each."""
        return self._pairs(len(self.names))

    def _pairs(self, nodes: int) -> tuple[np.ndarray, np.ndarray]:
        upper = np.triu_indices(nodes, 1)
        return self.ball[upper], self.flat[upper]

    @property
    def stress(self) -> float:
        """Root mean square error of the disk's distances over the root mean square distance (Kruskal's stress-1)."""
        ball, flat = self.pairs
        return float(np.sqrt(((flat - ball) ** 2).sum() / (ball**2).sum())) if len(ball) else 0.0

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's correlation of classes' distances on the disk with those in the ball; None for too few classes.

        Classes only: that a group is near its children holds by construction and would flatter the disk.
        """
        ball, flat = self._pairs(self.num_classes)
        if len(ball) < MIN_PAIRS:
            return None
        ranks = np.argsort(np.argsort([ball, flat]))
        return float(np.asarray(np.corrcoef(ranks))[0, 1])

    @property
    def edges(self) -> list[tuple[int, int]]:
        """(parent, child) of every child."""
        return [(int(p), child) for child, p in enumerate(self.parents) if p >= 0]

    @property
    def ordered(self) -> int:
        """How many children are farther from the centre than their parent, as the taxonomy wants it."""
        return sum(bool(self.norms[p] < self.norms[c]) for p, c in self.edges)

    def kin(self, shuffles: int = SHUFFLES, seed: int = 0) -> tuple[float, float, float] | None:
        """Compare classes of one parent with others, in the ball.

        Args:
            shuffles: How often to hand the classes' places in the taxonomy to other classes.
            seed: Of the shuffles.

        Returns:
            Mean distance of classes with one parent, mean distance of other classes, and the share of shuffles in which
            classes with one parent are as near; None where either kind has no pair.
        """
        a, b = np.triu_indices(self.num_classes, 1)
        same = (self.parents[a] == self.parents[b]) & (self.parents[a] >= 0)
        if same.all() or not same.any():
            return None
        near, far = self.ball[a, b][same].mean(), self.ball[a, b][~same].mean()
        rng = np.random.default_rng(seed)
        orders = (rng.permutation(self.num_classes) for _ in range(shuffles))
        by_chance = np.array([self.ball[order[a], order[b]][same].mean() for order in orders])
        return float(near), float(far), float((by_chance <= near + ROUNDING).mean())


def distance(z: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the distance of points of the disk, complex numbers within the unit circle."""
    return 2 * np.arctanh(np.abs((z - w) / (1 - np.conj(z) * w)))


def geodesic(z: complex, w: complex, points: int = 50) -> np.ndarray:
    """Return points at equal hyperbolic steps along the shortest way from ``z`` to ``w``, (points,)."""
    far = (w - z) / (1 - np.conj(z) * w)  # moved so that z is the centre, the way is straight
    steps = np.tanh(np.linspace(0, 1, points) * np.arctanh(np.abs(far))) * np.exp(1j * np.angle(far))
    return (steps + z) / (1 + np.conj(z) * steps)


def fit_angles(norms: np.ndarray, ball: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the angles at which nodes of given radii come nearest to given distances, in least squares.

    From every start each node in turn takes the best of `STEPS` angles until none moves. The first node then lies at
    the top, since turning a disk changes nothing.

    Args:
        norms: Norms of the nodes' tangent vectors, (M,).
        ball: Distances between them, (M, M).
        seed: Of the starts.

    Returns:
        Angles in radians, (M,).
    """
    cost = _costs(norms, ball)
    rng = np.random.default_rng(seed)
    settled = [_settle(cost, rng.integers(0, STEPS, len(norms))) for _ in range(STARTS)]
    best = min(settled, key=lambda angle: _total(cost, angle))
    return np.pi / 2 + 2 * np.pi / STEPS * (best - best[0])


def _costs(norms: np.ndarray, ball: np.ndarray) -> np.ndarray:
    """Return the squared error of every two nodes' distance at every angle between them, (M, M, STEPS)."""
    sinh, cosh = np.sinh(2 * norms), np.cosh(2 * norms)  # a node's distance to the centre is twice its norm
    between = np.cos(2 * np.pi / STEPS * np.arange(STEPS))
    arcosh = np.outer(cosh, cosh)[..., None] - np.outer(sinh, sinh)[..., None] * between
    error = (np.arccosh(arcosh.clip(1)) - ball[..., None]) ** 2
    error[np.diag_indices(len(norms))] = 0
    return error


def _settle(cost: np.ndarray, angle: np.ndarray) -> np.ndarray:
    nodes, candidates = np.arange(len(angle)), np.arange(STEPS)
    for _ in range(SWEEPS):
        before = angle.copy()
        for i in nodes:
            away = (candidates[:, None] - angle) % STEPS  # (STEPS, M)
            total = cost[i, nodes, away].sum(1)
            if total.min() < total[angle[i]]:  # ties stay, or two angles of equal cost would alternate for ever
                angle[i] = total.argmin()
        if (angle == before).all():
            break
    return angle


def _total(cost: np.ndarray, angle: np.ndarray) -> float:
    nodes = np.arange(len(angle))
    return float(cost[nodes[:, None], nodes, (angle[:, None] - angle) % STEPS].sum())
