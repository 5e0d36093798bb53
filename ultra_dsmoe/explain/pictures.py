"""Everything that a checkpoint can show in one pass, as pictures and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ultra_dsmoe.evaluate.evaluation import Evaluation
from ultra_dsmoe.evaluate.label_sizes import label_sizes
from ultra_dsmoe.evaluate.text_table import csv_text
from ultra_dsmoe.explain.plots import poincare_disk, routing_sizes
from ultra_dsmoe.explain.poincare_anchors import knows, read_disk
from ultra_dsmoe.explain.poincare_disk import Disk
from ultra_dsmoe.explain.record import blocks
from ultra_dsmoe.explain.routing import RoutingMap, kind
from ultra_dsmoe.explain.routing_map import block_suffixes, collect, origin, routing_files
from ultra_dsmoe.explain.routing_sizes import SizeMap, size_map
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate
from ultra_dsmoe.nn.neck.hyperbolic_fusion import HyperbolicFusion
from ultra_dsmoe.text import Taxonomy

Files = tuple[dict[str, bytes], list[str]]  # contents by file name, and what to tell


def gate_files(evaluation: Evaluation, content: dict[str, Any], shuffles: int, seed: int) -> list[Files]:
    """Return what is drawn of the gates, or a note that there is none."""
    if not blocks(evaluation.net, ExpertGate):
        return [({}, ["routing: left out, the model has no experts"])]
    maps, files = collect(evaluation, shuffles, seed)
    sizes = label_sizes(evaluation.args, content, files)
    return [routing_files(maps, files, evaluation), size_files(maps, sizes, evaluation, shuffles, seed)]


def size_files(
    maps: Mapping[str, RoutingMap], sizes: list[np.ndarray], evaluation: Evaluation, shuffles: int, seed: int
) -> Files:
    """Return picture and table of defect sizes against experts, for each gate."""
    made, notes = {}, []
    for suffix, routes in maps.items():
        found = size_map(routes, sizes, shuffles=shuffles, seed=seed)
        title = f"Which experts the model uses for which defect size ({origin(evaluation, suffix, len(sizes))})"
        made[f"routing_sizes{suffix}.png"] = routing_sizes.draw(found, title)
        made[f"routing_sizes{suffix}.csv"] = size_table(found).encode()
        notes.append(f"sizes{suffix}: {routing_sizes.sentence(found)}; {routing_sizes.beyond(found)}")
    return made, notes


def disk_files(evaluation: Evaluation, taxonomy: Taxonomy | None, seed: int) -> Files:
    """Return picture and tables of the anchors of each hyperbolic fusion, or a note that there is none."""
    fusions = [f for f in blocks(evaluation.net, HyperbolicFusion) if f.hyperbolic]
    if not fusions:
        return {}, ["disk: left out, the model compares nothing by hyperbolic distance"]
    evaluation.net.fold_text()
    made, notes = {}, []
    for fusion, suffix in block_suffixes(evaluation.net, fusions):
        if taxonomy is not None and not knows(fusion, taxonomy):
            notes.append(f"disk{suffix}: the data YAML's taxonomy is not the model's, so classes are drawn alone")
        disk = read_disk(fusion, evaluation.names, taxonomy, seed)
        shown = "Class anchors and taxonomy" if disk.edges else "Class anchors"
        title = f"{shown} on the Poincaré disk ({origin(evaluation, suffix)})"
        made[f"poincare_disk{suffix}.png"] = poincare_disk.draw(disk, title)
        made[f"poincare_disk{suffix}.csv"] = node_table(disk).encode()
        made[f"poincare_distances{suffix}.csv"] = distance_table(disk).encode()
        notes.append(f"disk{suffix}: {poincare_disk.kept(disk)}. {poincare_disk.found(disk)}")
    return made, notes


def size_table(sizes: SizeMap) -> str:
    """Return the map as comma-separated values, one line per size class and expert; shares within [0, 1]."""
    defects, share, mean, usage = sizes.counts.sum(0).astype(int), sizes.share, sizes.mean_weight, sizes.usage
    head = ["size_class", "from_px", "to_px", "defects", "images", "expert", "kind"]
    rows = (
        [row + 1, *(f"{x:.2f}" for x in sizes.ranges[row]), defects[row], sizes.images[row], n, kind(n)]
        + [f"{x:.5f}" for x in (share[row, n], mean[row, n], usage[n])]
        for row in range(len(defects))
        for n in range(len(usage))
    )
    return csv_text([[*head, "chosen_share", "mean_weight", "usage"], *rows])


def node_table(disk: Disk) -> str:
    """Return the nodes as comma-separated values: place on the disk and distance to the centre."""
    rows = (
        [name, "class" if i < disk.num_classes else "group", disk.names[up] if up >= 0 else ""]
        + [f"{x:.5f}" for x in (2 * disk.norms[i], point.real, point.imag)]
        for i, (name, up, point) in enumerate(zip(disk.names, disk.parents, disk.points, strict=True))
    )
    return csv_text([["name", "kind", "parent", "centre_distance", "x", "y"], *rows])


def distance_table(disk: Disk) -> str:
    """Return the distances of every two nodes as comma-separated values: in the ball and on the disk."""
    a, b = np.triu_indices(len(disk.names), 1)
    rows = (
        [disk.names[i], disk.names[j], f"{ball:.5f}", f"{flat:.5f}"]
        for i, j, ball, flat in zip(a, b, *disk.pairs, strict=True)
    )
    return csv_text([["a", "b", "ball", "disk"], *rows])
