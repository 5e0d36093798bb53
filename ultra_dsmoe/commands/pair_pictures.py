"""The part of ``dsmoe-yolo pictures`` that is about classifiers that texts teach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ultra_dsmoe.commands.opening import output_folder, print_notes
from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.hits import demo
from ultra_dsmoe.errors import ConfigError, WeightsError
from ultra_dsmoe.evaluate.class_evaluation import open_checkpoint
from ultra_dsmoe.evaluate.controls import images_of
from ultra_dsmoe.explain.pair_pictures import pair_files
from ultra_dsmoe.files import write_files
from ultra_dsmoe.model.classifier import IMGSZ, PairModel
from ultra_dsmoe.parsing import Given


def run(yolo: Any, options: Given) -> int:
    """Draw all that a classifier can show on a split.

    Args:
        yolo: The opened checkpoint.
        options: Of the command.
    """
    folder = output_folder(Path(options["model"]), options.get("out"), "pictures")
    if "data" not in options:
        raise ConfigError("data", "the folder of the classification set", "none")
    before = open_checkpoint(options["before"], "before").model if "before" in options else None
    if before is not None and not isinstance(before, PairModel):
        raise WeightsError("before", "a checkpoint of a classifier of ours", options["before"])
    root = packaged.place_of(options["data"])
    if options["data"] == demo.NAME:
        demo.provide(root)
    images = images_of(root, options.get("split", "val"))
    imgsz = options.get("imgsz", yolo.overrides.get("imgsz", IMGSZ))
    name = Path(options["model"]).name
    made, notes = pair_files(yolo.model, before, images, imgsz, name, options.get("seed", 0))
    print_notes(notes, write_files(folder, made))
    return 0
