"""Read the class anchors and the taxonomy that a trained net holds in its Poincaré balls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ultra_dsmoe.explain.poincare_disk import Disk, fit_angles
from ultra_dsmoe.nn.neck.hyperbolic_fusion import HyperbolicFusion
from ultra_dsmoe.ops import poincare
from ultra_dsmoe.text import Taxonomy


def read_taxonomy(content: Mapping[str, Any]) -> Taxonomy | None:
    """Return the taxonomy of a checked data YAML, None where it has none.

    Raises:
        TextError: If it is no tree over the classes.
    """
    section = content.get("taxonomy")
    return Taxonomy.parse(content["names"], section) if section else None


@torch.no_grad()
def read_disk(fusion: HyperbolicFusion, names: list[str], taxonomy: Taxonomy | None, seed: int = 0) -> Disk:
    """Place the anchors of a block on a disk, and the groups above them where ``taxonomy`` is the block's own.

    Args:
        fusion: A block that compares by hyperbolic distance and whose text is folded.
        names: Class names.
        taxonomy: Of the data YAML: the net knows its groups, but not their names.
        seed: Of the starts of the fit.
    """
    (anchors,) = fusion.constants(None)
    nodes = fusion.nodes(anchors.float())[0].cpu()
    groups = taxonomy.nodes[taxonomy.num_classes :] if taxonomy is not None and knows(fusion, taxonomy) else []
    nodes = nodes[: len(names) + len(groups)]
    parents = np.full(len(nodes), -1)
    if groups:
        for parent, child in fusion.edges.tolist():
            parents[child] = parent
    norms = poincare.norm(nodes).flatten().double().numpy()
    ball = poincare.distance(nodes.double(), nodes.double()).numpy()
    np.fill_diagonal(ball, 0)
    return Disk([*names, *groups], parents, len(names), nodes.shape[1], norms, ball, fit_angles(norms, ball, seed))


def knows(fusion: HyperbolicFusion, taxonomy: Taxonomy) -> bool:
    """Return whether a block was trained with this taxonomy: the same groups of classes and the same edges."""
    members = fusion.members.cpu().numpy().astype(bool)
    edges = {tuple(edge) for edge in fusion.edges.tolist()}
    return np.array_equal(members, taxonomy.members) and edges == set(taxonomy.edges)
