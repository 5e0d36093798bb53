"""Place a tree in the Poincaré ball of curvature -1 with geoopt's Riemannian Adam.

Source: [DSMoE] Sec. 3.3, Eq. 12 asks for parents nearer the origin than children; the stress that is minimised here,
hyperbolic distances against steps in the tree, is our choice: a tree fits the ball with little distortion, and both the
order of norms and the nearness of siblings follow from it. A hinge with Eq. 12's margin keeps the order where one disk
is too narrow for a wide tree.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch

MAX_RADIUS = 0.93  # our choice: inside tanh(2) = 0.964, the radius at which the graph clips
MAX_STEP = 1.5  # hyperbolic length of one tree step in a shallow tree: wide enough to part siblings from cousins
MARGIN = 0.05  # Eq. 12's margin between a parent's norm and its child's
HINGE_GAIN = 20.0  # one violated margin outweighs the stress of all pairs of a node
STEPS = 300
LEARNING_RATE = 0.03


@torch.inference_mode(False)
@torch.enable_grad()  # a caller may well build its model without gradients
def embed_tree(parents: np.ndarray, depths: np.ndarray, *, dim: int, seed: int) -> np.ndarray:
    """Return a point per node of a tree whose unseen root lies in the origin.

    Args:
        parents: int64 [n], the parent's index, -1 for children of the unseen root.
        depths: int64 [n], steps below the unseen root, at least 1.
        dim: Dimensions of the ball, at least 2.
        seed: Draws the plane and the start.

    Returns:
        float32 [n, dim], norms below 1.
    """
    with warnings.catch_warnings():  # geoopt scripts its functions at import, which newer torch calls deprecated
        warnings.simplefilter("ignore")
        import geoopt

    steps = torch.from_numpy(tree_distances(parents, depths)).double()
    step = min(MAX_STEP, 2 * np.arctanh(MAX_RADIUS) / int(depths.max()))
    margin = min(MARGIN, MAX_RADIUS / 2 / int(depths.max()))  # a very deep tree has less room per level
    ball = geoopt.PoincareBall(c=1.0)
    start = torch.from_numpy(_start(parents, depths, step, dim, seed))
    points = geoopt.ManifoldParameter(start, manifold=ball)
    optimiser = geoopt.optim.RiemannianAdam([points], lr=LEARNING_RATE, stabilize=10)
    above = torch.from_numpy(parents)
    child = torch.nonzero(above >= 0).squeeze(1)
    upper = torch.triu_indices(len(parents) + 1, len(parents) + 1, offset=1)
    target = step * steps[upper[0], upper[1]]
    for i in range(STEPS):
        for group in optimiser.param_groups:  # cosine to zero: the last steps only settle
            group["lr"] = LEARNING_RATE * 0.5 * (1 + np.cos(np.pi * i / STEPS))
        optimiser.zero_grad()
        rooted = torch.cat([points, points.new_zeros(1, dim)])  # (n + 1, dim), the origin last
        stress = ((ball.dist(rooted[upper[0]], rooted[upper[1]]) / target - 1) ** 2).mean()
        norms = points.norm(dim=1)
        hinge = (norms[above[child]] - norms[child] + margin).clamp_min(0).sum() / len(parents)  # [DSMoE] Eq. 12
        (stress + HINGE_GAIN * hinge).backward()
        optimiser.step()
    return points.detach().numpy().astype(np.float32)


def tree_distances(parents: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """Return the steps between any two nodes, the unseen root last: float64 [n + 1, n + 1]."""
    n = len(parents)
    above = np.eye(n + 1, dtype=bool)  # above[i, j]: j is i or an ancestor of i
    above[:, n] = True
    for i in np.argsort(depths, kind="stable"):  # parents before children
        if parents[i] >= 0:
            above[i] |= above[parents[i]]
    depth = np.append(depths, 0)
    # The lowest common ancestor's depth is the number of common ancestors below the root.
    common = above[:, :n].astype(np.float64) @ above[:, :n].T.astype(np.float64)
    return depth[:, None] + depth[None, :] - 2 * common


def _start(parents: np.ndarray, depths: np.ndarray, step: float, dim: int, seed: int) -> np.ndarray:
    """Return the start: every subtree in its own sector of one plane, in the nodes' order; float64 [n, dim]."""
    random = np.random.default_rng(seed)
    children: dict[int, list[int]] = {}
    for i, parent in enumerate(parents.tolist()):
        children.setdefault(parent, []).append(i)
    angles = np.zeros(len(parents))
    todo = [(-1, 0.0, 2 * np.pi)]
    weights = _leaf_counts(parents, depths)
    while todo:
        node, low, high = todo.pop()
        kin = children.get(node, [])
        edges = low + (high - low) * np.cumsum([0, *(weights[k] for k in kin)]) / max(1, sum(weights[k] for k in kin))
        for k, a, b in zip(kin, edges[:-1], edges[1:], strict=True):
            angles[k] = (a + b) / 2
            todo.append((k, float(a), float(b)))
    plane, _ = np.linalg.qr(random.standard_normal((dim, 2)))  # (dim, 2), orthonormal
    radius = np.tanh(step * depths / 2)  # distance from the origin is 2 artanh(norm)
    flat = radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (n, 2)
    return flat @ plane.T + 0.01 * random.standard_normal((len(parents), dim)) * (1 - radius[:, None])


def _leaf_counts(parents: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """Return the number of leaves below each node, 1 for a leaf: the width of its sector."""
    counts = np.zeros(len(parents))
    counts[np.setdiff1d(np.arange(len(parents)), parents)] = 1
    for i in np.argsort(-depths, kind="stable"):  # children before parents
        if parents[i] >= 0:
            counts[parents[i]] += counts[i]
    return counts
