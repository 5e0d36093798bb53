"""``dsmoe-yolo pictures``."""

from __future__ import annotations

from ultralytics.data.utils import check_det_dataset

from ultra_dsmoe.commands.arguments import CHECKPOINT, Command, Given, evaluation_options
from ultra_dsmoe.commands.opening import opened, tell
from ultra_dsmoe.commands.routing import SHUFFLES_OPTION
from ultra_dsmoe.evaluate.evaluation import quiet, write_files
from ultra_dsmoe.evaluate.label_sizes import label_sizes
from ultra_dsmoe.explain.pictures import disk_files, size_files
from ultra_dsmoe.explain.poincare_anchors import read_taxonomy
from ultra_dsmoe.explain.routing_map import SHUFFLES, collect, routing_files


def run(options: Given) -> int:
    """Draw all that a checkpoint can show in one pass over a split."""
    evaluation, folder = opened(options, "pictures")
    with quiet():
        content = check_det_dataset(evaluation.args["data"])
    taxonomy = read_taxonomy(content)
    shuffles, seed = options.get("shuffles", SHUFFLES), options.get("seed", 0)
    maps, images = collect(evaluation, shuffles, seed)
    sizes = label_sizes(evaluation.args, content, images)
    written: dict[str, bytes] = {}
    for made, notes in (
        routing_files(maps, images, evaluation),
        size_files(maps, sizes, evaluation, shuffles, seed),
        disk_files(evaluation, taxonomy, seed),
    ):
        written.update(made)
        print(*notes, sep="\n")
    tell([], write_files(folder, written))
    return 0


COMMAND = Command(
    "pictures",
    """Draws what a DS-MoE checkpoint does on a data set: routing_map.png (defect classes against experts, as
'dsmoe-yolo routing' does), routing_sizes.png (defect sizes against experts) and poincare_disk.png (class anchors and
taxonomy), each with its numbers as CSV beside it.""",
    {**evaluation_options("pictures"), "shuffles": SHUFFLES_OPTION},
    run,
    CHECKPOINT,
)
