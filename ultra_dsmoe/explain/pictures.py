"""``dsmoe-yolo pictures``: everything that a checkpoint can show in one pass, as pictures and tables."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ultralytics.data.utils import check_det_dataset

from ultra_dsmoe.commands import arguments
from ultra_dsmoe.evaluate.evaluation import Evaluation, begin, quiet, write_files
from ultra_dsmoe.evaluate.label_sizes import label_sizes
from ultra_dsmoe.evaluate.tables import comma_separated
from ultra_dsmoe.explain.plots import poincare_disk, routing_sizes
from ultra_dsmoe.explain.poincare_anchors import knows, read_disk, read_taxonomy
from ultra_dsmoe.explain.poincare_disk import Disk
from ultra_dsmoe.explain.record import blocks
from ultra_dsmoe.explain.routing import RoutingMap, kind
from ultra_dsmoe.explain.routing_map import KEYS, SHUFFLES, block_suffixes, collect, origin, routing_files
from ultra_dsmoe.explain.routing_sizes import SizeMap, size_map
from ultra_dsmoe.nn.neck.hyperbolic_fusion import HyperbolicFusion
from ultra_dsmoe.text import Taxonomy

USAGE = f"""usage: dsmoe-yolo pictures best.pt [data=...] [key=value ...]

Draws what a DS-MoE checkpoint does on a data set: routing_map.png (defect classes against experts, as 'dsmoe-yolo
routing' does), routing_sizes.png (defect sizes against experts) and poincare_disk.png (class anchors and taxonomy),
each with its numbers as CSV beside it.

  data      data YAML                   default: the one the checkpoint was trained on
  imgsz     image size                  default: as trained
  batch     images per batch            default: 16
  split     {"|".join(arguments.SPLITS)}              default: val
  device    cpu, 0, ...                 default: the first GPU, or cpu
  seed      of the shuffles             default: 0
  shuffles  of routes, for chance       default: {SHUFFLES}
  out       folder of the results       default: pictures/ in the checkpoint's run folder"""

Files = tuple[dict[str, bytes], list[str]]  # contents by file name, and what to tell


def main(argv: list[str]) -> int:
    """Run the sub-command.

    Args:
        argv: Words behind ``dsmoe-yolo pictures``.

    Returns:
        The exit code.

    Raises:
        DSMoEError: On bad input, before anything is written.
    """
    begun = begin(argv, USAGE, KEYS, "pictures")
    if begun is None:
        return 0
    options, evaluation, folder = begun
    with quiet():
        content = check_det_dataset(evaluation.args["data"])
    taxonomy = read_taxonomy(content)
    shuffles, seed = options.get("shuffles", SHUFFLES), options.get("seed", 0)
    maps, files = collect(evaluation, shuffles, seed)
    sizes = label_sizes(evaluation.args, content, files)
    written: dict[str, bytes] = {}
    for made, notes in (
        routing_files(maps, files, evaluation),
        size_files(maps, sizes, evaluation, shuffles, seed),
        disk_files(evaluation, taxonomy, seed),
    ):
        written.update(made)
        print(*notes, sep="\n")
    print(*(f"written: {path}" for path in write_files(folder, written)), sep="\n")
    return 0


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
    return comma_separated([[*head, "chosen_share", "mean_weight", "usage"], *rows])


def node_table(disk: Disk) -> str:
    """Return the nodes as comma-separated values: place on the disk and distance to the centre."""
    rows = (
        [name, "class" if i < disk.num_classes else "group", disk.names[up] if up >= 0 else ""]
        + [f"{x:.5f}" for x in (2 * disk.norms[i], point.real, point.imag)]
        for i, (name, up, point) in enumerate(zip(disk.names, disk.parents, disk.points, strict=True))
    )
    return comma_separated([["name", "kind", "parent", "centre_distance", "x", "y"], *rows])


def distance_table(disk: Disk) -> str:
    """Return the distances of every two nodes as comma-separated values: in the ball and on the disk."""
    a, b = np.triu_indices(len(disk.names), 1)
    rows = (
        [disk.names[i], disk.names[j], f"{ball:.5f}", f"{flat:.5f}"]
        for i, j, ball, flat in zip(a, b, *disk.pairs, strict=True)
    )
    return comma_separated([["a", "b", "ball", "disk"], *rows])
