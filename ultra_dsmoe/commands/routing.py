"""``dsmoe-yolo routing``."""

from __future__ import annotations

from ultra_dsmoe.commands.arguments import CHECKPOINT, evaluation_options
from ultra_dsmoe.commands.opening import opened, print_notes
from ultra_dsmoe.explain.routing_map import SHUFFLES, collect, routing_files
from ultra_dsmoe.files import write_files
from ultra_dsmoe.parsing import Command, Given, Option, whole

SHUFFLES_OPTION = Option(whole(20, 100_000), "of routes between images, for chance", str(SHUFFLES))


def run(options: Given) -> int:
    """Record the routing of a split; write pictures and tables."""
    evaluation, folder = opened(options, "routing")
    maps, images = collect(evaluation, options.get("shuffles", SHUFFLES), options.get("seed", 0))
    written, notes = routing_files(maps, images, evaluation)
    print_notes(notes, write_files(folder, written))
    return 0


COMMAND = Command(
    "routing",
    """Records which experts a DS-MoE checkpoint chooses for the images of a data set; writes routing_map.png (defect
classes against experts), routing_map.csv (the same as numbers) and routing_images.csv (the experts of each image).""",
    {**evaluation_options("routing"), "shuffles": SHUFFLES_OPTION},
    run,
    CHECKPOINT,
)
