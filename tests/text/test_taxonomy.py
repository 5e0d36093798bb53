"""The tree of the classes and its picture on the Poincaré ball."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest
import torch

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text import Taxonomy

BOARD = ["missing_hole", "mouse_bite", "open_circuit", "short", "spur", "spurious_copper"]
TREE = {
    "missing copper": ["mouse_bite", "open_circuit"],
    "excess copper": ["short", "spur", "spurious_copper"],
    "copper fault": ["missing copper", "excess copper"],
    "drilling fault": ["missing_hole"],
}
NESTED = {
    "copper fault": {"missing copper": ["mouse_bite", "open_circuit"], "excess copper": BOARD[3:]},
    "drilling fault": ["missing_hole"],
}
WIDE = {f"g{j}": [f"c{i}" for i in range(6 * j, 6 * j + 6)] for j in range(3)}


def ball_distances(points: np.ndarray) -> np.ndarray:
    """Distances in the ball of curvature -1, [DSMoE] Eq. 12's formula in float64."""
    points = points.astype(np.float64)
    square = ((points[:, None] - points[None]) ** 2).sum(-1)
    room = 1 - (points**2).sum(1)
    return np.arccosh(1 + 2 * square / (room[:, None] * room[None]))


def named_edges(tree: Taxonomy) -> set[tuple[str, str]]:
    return {(tree.nodes[p], tree.nodes[c]) for p, c in tree.edges}


def test_nodes_edges_and_members() -> None:
    tree = Taxonomy.parse(dict(enumerate(BOARD)), TREE)
    assert tree.nodes == [*BOARD, "missing copper", "excess copper", "copper fault", "drilling fault"]
    assert set(tree.edges) == {(6, 1), (6, 2), (7, 3), (7, 4), (7, 5), (8, 6), (8, 7), (9, 0)}
    assert tree.num_classes == 6
    assert tree.members.dtype == bool
    assert tree.members.astype(int).tolist() == [
        [0, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 1, 1],
        [0, 1, 1, 1, 1, 1],
        [1, 0, 0, 0, 0, 0],
    ]
    assert tree.parents().tolist() == [9, 6, 6, 7, 7, 7, 8, 8, -1, -1]
    assert tree.depths().tolist() == [2, 3, 3, 3, 3, 3, 2, 2, 1, 1]


def test_three_ways_to_write_the_same_tree() -> None:
    flat = Taxonomy.parse(BOARD, TREE)
    nested = Taxonomy.parse(BOARD, NESTED)
    mixed = Taxonomy.parse(
        BOARD,
        {
            "copper fault": [{"missing copper": ["mouse_bite", "open_circuit"]}, "excess copper"],
            "excess copper": {"short": None, "spur": None, "spurious_copper": None},
            "drilling fault": ("missing_hole",),
        },
    )
    assert named_edges(flat) == named_edges(nested) == named_edges(mixed)


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_taxonomy_is_a_tree_without_groups(nothing: dict[str, Any] | None) -> None:
    tree = Taxonomy.parse(["a", "b", "a"], nothing)  # two classes of one name are fine where no tree must tell them
    assert tree.nodes == ["a", "b", "a"]
    assert tree.edges == []
    assert tree.members.shape == (0, 3)
    assert tree.embed().shape == (3, 2)


def test_classes_may_be_left_out() -> None:
    tree = Taxonomy.parse(["a", "b", "c"], {"g": ["a", "b"]})
    assert tree.parents().tolist() == [3, 3, -1, -1]
    assert tree.members.tolist() == [[True, True, False]]


@pytest.mark.parametrize(
    ("mapping", "match"),
    [
        ({"x": ["y"], "y": ["x"]}, r"a tree, got the cycle x > y > x|the cycle y > x > y"),
        ({"x": ["x"]}, r"the cycle x > x"),
        ({"x": {"y": {"x": ["spur"]}}}, r"the cycle"),
        ({"r": ["x"], "x": ["y", "spur"], "y": ["z"], "z": ["y"]}, r"one parent per child, got 'y'|the cycle"),
        ({"a": ["spur"], "b": ["spur"]}, r"one parent per child, got 'spur' under 'a' and 'b'"),
        ({"a": ["spur", "spur"]}, r"one parent per child"),
        ({"a": ["spurr"]}, r"leaves that are classes of this data set, got 'spurr' \(did you mean 'spur'\?\)"),
        ({"a": ["zzz"]}, r"got 'zzz'$"),
        ({"spur": ["short"]}, r"group names that are no class, got the class 'spur' as a parent"),
        ({"a": []}, r"taxonomy\[a\]: expected a list of at least one child, got \[\]"),
        ({"a": None}, r"taxonomy\[a\]: expected a list of at least one child, got None"),
        ({"a": "spur"}, r"taxonomy\[a\]: expected a list of at least one child, got spur"),
        ({"a": {}}, r"taxonomy\[a\]"),
        ({"a": [None]}, r"names that are not empty, got None"),
        ({"a": [["spur"]]}, r"names that are not empty"),
        ({" ": ["spur"]}, r"names that are not empty"),
        (["spur"], r"a mapping of parent to children"),
        ("spur", r"a mapping of parent to children"),
    ],
)
def test_wrong_taxonomy_is_one_line(mapping: object, match: str) -> None:
    with pytest.raises(TextError, match=match) as caught:
        Taxonomy.parse(BOARD, mapping)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_tree_needs_different_class_names() -> None:
    with pytest.raises(TextError, match="different names"):
        Taxonomy.parse(["a", "b", "a"], {"g": ["a"]})


@pytest.mark.parametrize(("names", "tree"), [(BOARD, TREE), ([f"c{i}" for i in range(18)], WIDE)])
@pytest.mark.parametrize("dim", [2, 5])
def test_embedding_orders_norms_and_keeps_siblings_together(names: list[str], tree: dict[str, Any], dim: int) -> None:
    taxonomy = Taxonomy.parse(names, tree)
    points = taxonomy.embed(dim=dim)
    assert points.shape == (len(taxonomy.nodes), dim)
    assert points.dtype == np.float32
    norms = np.linalg.norm(points, axis=1)
    assert norms.max() < np.tanh(2)  # inside the radius at which the graph clips
    for parent, child in taxonomy.edges:  # [DSMoE] Eq. 12, with its margin
        assert norms[parent] + 0.05 <= norms[child]
    distance, parents, depths = ball_distances(points), taxonomy.parents(), taxonomy.depths()
    pairs = list(itertools.combinations(range(len(parents)), 2))
    grouped = [(i, j) for i, j in pairs if parents[i] >= 0 and parents[j] >= 0 and depths[i] == depths[j]]
    siblings = [distance[i, j] for i, j in grouped if parents[i] == parents[j]]
    cousins = [distance[i, j] for i, j in grouped if parents[i] != parents[j]]
    assert max(siblings) < min(cousins)


def test_embedding_follows_the_steps_in_the_tree() -> None:
    """Distances in the ball rise with distances in the tree: 2 steps to a sibling, 4 and more across groups."""
    taxonomy = Taxonomy.parse(BOARD, TREE)
    distance = ball_distances(taxonomy.embed())
    parents = taxonomy.parents()

    def line(node: int) -> list[int]:
        return [node, *line(int(parents[node]))] if node >= 0 else [-1]

    def steps(i: int, j: int) -> int:
        meet = next(n for n in line(i) if n in line(j))
        return line(i).index(meet) + line(j).index(meet)

    pairs = list(itertools.combinations(range(len(parents)), 2))
    correlation = np.corrcoef([steps(i, j) for i, j in pairs], [distance[i, j] for i, j in pairs])[0, 1]
    assert correlation > 0.85  # a disk is too narrow for a wide tree without distortion


def test_embedding_is_fixed_by_the_seed() -> None:
    taxonomy = Taxonomy.parse(BOARD, TREE)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = taxonomy.embed(seed=3)
    assert torch.equal(torch.get_rng_state(), state)  # the training's random numbers are not touched
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, taxonomy.embed(seed=3))
    assert np.abs(first - taxonomy.embed(seed=4)).max() > 0.01


def test_embedding_under_no_grad_and_inference_mode() -> None:
    taxonomy = Taxonomy.parse(BOARD, TREE)
    expected = taxonomy.embed()
    for without in (torch.no_grad(), torch.inference_mode()):
        with without:
            np.testing.assert_array_equal(taxonomy.embed(), expected)


def test_a_deep_chain_stays_inside_and_in_order() -> None:
    chain: dict[str, Any] = {"g0": ["leaf"]}
    for i in range(1, 20):
        chain = {f"g{i}": chain}
    taxonomy = Taxonomy.parse(["leaf", "other"], chain)
    norms = np.linalg.norm(taxonomy.embed(), axis=1)
    assert norms.max() < 1
    assert all(norms[p] < norms[c] for p, c in taxonomy.edges)


def test_a_lopsided_tree_keeps_the_order_of_norms() -> None:
    """One group of a single class beside one of 29: the distances alone would push the small one's class inwards."""
    names = [f"c{i}" for i in range(30)]
    taxonomy = Taxonomy.parse(names, {"all": {"one": names[:1], "many": names[1:]}})
    norms = np.linalg.norm(taxonomy.embed(), axis=1)
    assert min(norms[c] - norms[p] for p, c in taxonomy.edges) > 0.04  # [DSMoE] Eq. 12's margin, nearly


def test_embedding_is_fast() -> None:
    taxonomy = Taxonomy.parse(BOARD, TREE)
    taxonomy.embed()  # imports geoopt
    start = time.process_time()
    taxonomy.embed()
    assert time.process_time() - start < 2


@pytest.mark.parametrize("options", [{"dim": 1}, {"dim": 2.5}, {"dim": True}, {"seed": -1}, {"seed": "a"}])
def test_wrong_embedding_options(options: dict[str, Any]) -> None:
    with pytest.raises(TextError, match="a whole number of at least"):
        Taxonomy.parse(["a"], None).embed(**options)
