"""Taxonomy of the classes: a tree from the data YAML, and its picture on the Poincaré ball.

Source: [DSMoE] Sec. 3.3, Stage 5, Eq. 12: parents sit nearer the origin than their children. The YAML form and the
embedding's loss are our choice; the graph itself learns Euclidean parameters and only starts from these points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ultra_dsmoe.checks import class_names, whole
from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text.prompts import near


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """Classes and their groups.

    Attributes:
        nodes: The K classes in class order, then the P groups in the order in which the YAML names them.
        edges: (parent index, child index) of every child.
        members: bool [P, K]: the classes below each group.
    """

    nodes: list[str]
    edges: list[tuple[int, int]]
    members: np.ndarray

    @classmethod
    def parse(cls, names: Mapping[Any, Any] | Sequence[Any], mapping: Mapping[Any, Any] | None) -> Taxonomy:
        """Read the ``taxonomy:`` section of a data YAML.

        ``parent: [children]``, where a child is a class, a group with an entry of its own, or a nested mapping of the
        same form. Classes may be left out; they hang on no group. None is a taxonomy without groups.

        Args:
            names: Index to class name, or a list of names.
            mapping: Parent to children.

        Raises:
            TextError: If a leaf is no class, a child has two parents, a group has no child or the name of a class, or
                the groups form a cycle.
        """
        labels = class_names(names)
        parent_of: dict[str, str] = {}
        groups: dict[str, None] = {}
        if mapping is not None:
            if not isinstance(mapping, Mapping):
                raise TextError("taxonomy", "a mapping of parent to children", mapping)
            if mapping:
                _refuse_duplicates(labels)
            for parent, child in _pairs(mapping, groups):
                if child in parent_of:
                    got = f"{child!r} under {parent_of[child]!r} and {parent!r}"
                    raise TextError("taxonomy", "one parent per child", got)
                parent_of[child] = parent
        _check_groups(labels, groups, parent_of)
        nodes = [*labels, *groups]
        index = {name: i for i, name in reversed(list(enumerate(nodes)))}
        edges = [(index[parent], index[child]) for child, parent in parent_of.items()]
        return cls(nodes, edges, _members(len(labels), len(nodes), edges))

    @property
    def num_classes(self) -> int:
        """Return K."""
        return self.members.shape[1]

    def parents(self) -> np.ndarray:
        """Return the parent's index of every node, -1 where it has none: int64 [K + P]."""
        return _parents(len(self.nodes), self.edges)

    def depths(self) -> np.ndarray:
        """Return how many steps each node is below the root that lies in the origin, at least 1: int64 [K + P]."""
        parents = self.parents()
        return np.array([1 + sum(1 for _ in _ancestors(i, parents)) for i in range(len(parents))], dtype=np.int64)

    def embed(self, dim: int = 2, seed: int = 0) -> np.ndarray:
        """Return every node's point in the Poincaré ball of curvature -1.

        Args:
            dim: Dimensions of the ball, at least 2.
            seed: Draws the rotation and the start; the same seed gives the same points.

        Returns:
            float32 [K + P, dim], norms below 1: parents nearer the origin than their children, siblings near each
            other.

        Raises:
            TextError: If ``dim`` or ``seed`` is no such integer.
        """
        for name, value, low in (("dim", dim, 2), ("seed", seed, 0)):
            whole(f"Taxonomy.embed {name}", value, low, kind=TextError)
        from ultra_dsmoe.text.tree_embedding import (
            embed_tree,  # it needs torch; the rest of the text side starts without
        )

        return embed_tree(self.parents(), self.depths(), dim=int(dim), seed=int(seed))


def _pairs(mapping: Mapping[Any, Any], groups: dict[str, None]) -> Iterator[tuple[str, str]]:
    """Yield (parent, child) of a section of any depth, noting every parent in ``groups``."""
    for key, value in mapping.items():
        parent = _label(key)
        if not isinstance(value, (Mapping, list, tuple)) or not value:
            raise TextError(f"taxonomy[{parent}]", "a list of at least one child", value)
        groups[parent] = None
        for item in [value] if isinstance(value, Mapping) else value:
            if isinstance(item, Mapping):
                # In a mapping a class may stand as `spur:` without a value; it is a leaf like a list's entry.
                yield from ((parent, _label(child)) for child in item)
                yield from _pairs({k: v for k, v in item.items() if v is not None}, groups)
            else:
                yield parent, _label(item)


def _label(value: Any) -> str:
    """Return a node's name as text."""
    if value is None or isinstance(value, (Mapping, list, tuple)) or not str(value).strip():
        raise TextError("taxonomy", "names that are not empty", value)
    return str(value).strip()


def _refuse_duplicates(labels: tuple[str, ...]) -> None:
    """A tree cannot tell two classes of one name apart."""
    twice = sorted({name for name in labels if labels.count(name) > 1})
    if twice:
        raise TextError("names", "different names for all classes where there is a taxonomy", f"{twice[0]!r} twice")


def _check_groups(labels: tuple[str, ...], groups: dict[str, None], parent_of: dict[str, str]) -> None:
    """Refuse cycles, groups named as a class, and leaves that are no class."""
    for start in groups:
        path = [start]
        while path[-1] in parent_of:
            path.append(parent_of[path[-1]])
            if path[-1] in path[:-1]:
                loop = path[path.index(path[-1]) :]
                raise TextError("taxonomy", "a tree", f"the cycle {' > '.join(reversed(loop))}")
    for name in groups:
        if name in labels:
            raise TextError("taxonomy", "group names that are no class", f"the class {name!r} as a parent")
    for child in parent_of:
        if child not in groups and child not in labels:
            hint = near(child, [*labels, *groups])
            raise TextError("taxonomy", "leaves that are classes of this data set", f"{child!r}{hint}")


def _parents(count: int, edges: list[tuple[int, int]]) -> np.ndarray:
    """Return the parent of every node, -1 for none."""
    parents = np.full(count, -1, dtype=np.int64)
    for parent, child in edges:
        parents[child] = parent
    return parents


def _ancestors(node: int, parents: np.ndarray) -> Iterator[int]:
    """Yield the nodes above ``node``, nearest first."""
    while parents[node] >= 0:
        node = int(parents[node])
        yield node


def _members(num_classes: int, count: int, edges: list[tuple[int, int]]) -> np.ndarray:
    """Return bool [P, K]: which classes lie below each group."""
    parents = _parents(count, edges)
    members = np.zeros((count - num_classes, num_classes), dtype=bool)
    for leaf in range(num_classes):
        for group in _ancestors(leaf, parents):
            members[group - num_classes, leaf] = True
    return members
