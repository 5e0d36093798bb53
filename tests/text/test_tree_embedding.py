"""The tree's distances by hand, the sectors that the fit starts from, and the points it ends in."""

from __future__ import annotations

import numpy as np
import pytest

from ultra_dsmoe.text.tree_embedding import MAX_RADIUS, MAX_STEP, _leaf_counts, _start, embed_tree, tree_distances

#        root
#       0    1      0 and 1 are groups, 2 to 5 leaves, 5 hangs on the root
#      2 3   4   5
PARENTS = np.array([-1, -1, 0, 0, 1, -1])
DEPTHS = np.array([1, 1, 2, 2, 2, 1])


def test_tree_distances_by_hand() -> None:
    wanted = [
        [0, 2, 1, 1, 3, 2, 1],
        [2, 0, 3, 3, 1, 2, 1],
        [1, 3, 0, 2, 4, 3, 2],
        [1, 3, 2, 0, 4, 3, 2],
        [3, 1, 4, 4, 0, 3, 2],
        [2, 2, 3, 3, 3, 0, 1],
        [1, 1, 2, 2, 2, 1, 0],  # the unseen root
    ]
    assert tree_distances(PARENTS, DEPTHS).tolist() == wanted


def test_tree_distances_of_a_chain_and_of_children_listed_before_their_parents() -> None:
    chain = tree_distances(np.array([1, 2, -1]), np.array([3, 2, 1]))
    assert chain.tolist() == [[0, 1, 2, 3], [1, 0, 1, 2], [2, 1, 0, 1], [3, 2, 1, 0]]


def test_leaves_below_each_node() -> None:
    assert _leaf_counts(PARENTS, DEPTHS).tolist() == [2, 1, 1, 1, 1, 1]
    assert _leaf_counts(np.array([1, 2, -1]), np.array([3, 2, 1])).tolist() == [1, 1, 1]


def test_every_subtree_starts_in_a_sector_of_its_own_as_wide_as_its_leaves() -> None:
    step = 1.0
    start = _start(PARENTS, DEPTHS, step, 2, seed=0)
    np.testing.assert_allclose(np.linalg.norm(start, axis=1), np.tanh(step * DEPTHS / 2), atol=0.03)
    angle = np.unwrap(np.arctan2(start[:, 1], start[:, 0])[[2, 0, 3, 1, 4, 5]])  # in the order of the sectors
    steps = np.abs(np.diff(angle))
    # Leaves 2, 3, 4, 5 stand in the middles of four equal sectors; a group in the middle of its own.
    np.testing.assert_allclose(steps, np.array([1, 1, 2, 0, 2]) * np.pi / 4, atol=0.08)
    assert len({*np.sign(np.diff(angle)[[0, 1, 2, 4]])}) == 1, "one turn, the nodes in their order"


def test_the_plane_lies_anywhere_in_more_dimensions() -> None:
    start = _start(PARENTS, DEPTHS, 1.0, 6, seed=1)
    values = np.linalg.svd(start, compute_uv=False)
    assert values[2] < 0.1 < values[1]
    assert np.abs(start - _start(PARENTS, DEPTHS, 1.0, 6, seed=2)).max() > 0.1
    assert np.array_equal(start, _start(PARENTS, DEPTHS, 1.0, 6, seed=1))


@pytest.mark.parametrize("dim", [2, 4])
def test_points_keep_the_trees_order(dim: int) -> None:
    points = embed_tree(PARENTS, DEPTHS, dim=dim, seed=0)
    assert points.shape == (6, dim)
    assert points.dtype == np.float32
    norms = np.linalg.norm(points, axis=1)
    assert norms.max() < np.tanh(2)
    assert all(norms[p] + 0.04 < norms[c] for c, p in enumerate(PARENTS) if p >= 0)
    between = np.linalg.norm(points[:, None] - points[None], axis=2)
    assert between[2, 3] < min(between[2, 4], between[3, 4])


def test_a_single_node_lies_one_step_from_the_centre() -> None:
    (point,) = embed_tree(np.array([-1]), np.array([1]), dim=3, seed=0)
    assert 2 * np.arctanh(np.linalg.norm(point)) == pytest.approx(MAX_STEP, rel=0.01)


def test_a_deep_tree_has_shorter_steps() -> None:
    depth = 12
    points = embed_tree(np.arange(-1, depth - 1), np.arange(1, depth + 1), dim=2, seed=0)
    norms = np.linalg.norm(points, axis=1)
    assert (np.diff(norms) > 0).all()
    assert norms[-1] < MAX_RADIUS + 0.05
    distance = 2 * np.arctanh(norms)
    np.testing.assert_allclose(distance, distance[-1] / depth * np.arange(1, depth + 1), rtol=0.2)
