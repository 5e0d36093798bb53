"""``dsmoe-yolo reference robustness``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ultra_dsmoe.commands.arguments import evaluation_options
from ultra_dsmoe.commands.opening import output_folder, print_notes, progress
from ultra_dsmoe.data.source import DataSource
from ultra_dsmoe.errors import ConfigError, WeightsError
from ultra_dsmoe.evaluate import reference_robustness as measured
from ultra_dsmoe.evaluate.evaluation import checked_device
from ultra_dsmoe.evaluate.text_table import align_columns, csv_text
from ultra_dsmoe.explain.plots.reference_robustness import draw
from ultra_dsmoe.files import write_files
from ultra_dsmoe.logs import at_level
from ultra_dsmoe.model.reference_row import has_reference
from ultra_dsmoe.parsing import Command, Given, Option, text, whole

HOST_KEYS = ("imgsz", "batch", "device")


def run(options: Given) -> int:
    """Measure, print both tables, write them with the picture."""
    path = Path(options["model"])
    nets = {measured.WITH: path}
    trained = _opened("model", path, wanted=True)
    if "beside" in options:
        nets[measured.WITHOUT] = Path(options["beside"])
        _opened("beside", nets[measured.WITHOUT], wanted=False)
    source = DataSource.choose(options.get("data"), [trained.get("data")])
    if source is None:
        raise ConfigError("data", "a data YAML with a 'reference' section", "none")
    split = options.get("split", "val")
    source.require_local(split)
    folder = output_folder(path, options.get("out"), "robustness")
    args = {"imgsz": trained.get("imgsz", 640), "plots": False, "rect": True, "workers": 0}
    args |= {key: options[key] for key in HOST_KEYS if key in options}
    checked_device(args.get("device"))
    pairs, names = measured.read_pairs(source.yaml, split, options.get("images", 0))
    step = progress("reference")
    lines = measured.robustness(nets, pairs, names, args, step)
    alarms = measured.false_alarms(nets, pairs, names, args, step)
    title = f"{path.parent.parent.name if path.parent.name == 'weights' else path.name}, {len(pairs)} images"
    tables = {"robustness.csv": measured.as_csv(lines), "false-alarms.csv": csv_text(measured.alarm_cells(alarms))}
    files = {name: content.encode() for name, content in tables.items()}
    written = write_files(folder, {**files, "robustness.png": draw(lines, title)})
    print("mAP50 / mAP50-95 in points")
    print(align_columns([[*row, ""] for row in measured.cells(lines)]))
    print("\nboxes per known-good image, at the threshold that finds this share of the defects")
    print(align_columns([[*row, ""] for row in measured.alarm_cells(alarms)]))
    print_notes([], written)
    return 0


def _opened(key: str, path: Path, wanted: bool) -> dict[str, Any]:
    """Return what a checkpoint was trained with; refuse one that has, or lacks, the row for references.

    Raises:
        WeightsError: If it is missing, damaged or of the other kind.
    """
    from ultralytics import YOLO
    from ultralytics.utils import LOGGER

    from ultra_dsmoe.causes import reading

    if path.suffix != ".pt" or not path.is_file():
        raise WeightsError(key, "an existing checkpoint (.pt)", str(path))
    with at_level(LOGGER, logging.WARNING), reading(key, "a readable checkpoint", WeightsError, path):
        yolo = YOLO(str(path))
    if yolo.task != "detect" or has_reference(yolo.model) != wanted:
        kind = "with a Reference row" if wanted else "without a Reference row"
        raise WeightsError(key, f"a checkpoint of a detector {kind}", str(path))
    return dict(yolo.overrides)


OPTIONS = evaluation_options("robustness")
COMMAND = Command(
    "reference robustness",
    """Evaluates a detector with a known-good reference while image and reference fit less and less: moved, turned,
brighter, blurred, the reference of another product, none; with registration off and on. Then counts its boxes on other
shots of the known-good parts. Prints tables, writes robustness.csv, false-alarms.csv and robustness.png.""",
    {
        "model": Option(text, "checkpoint of a detector that takes references, such as best.pt"),
        "beside": Option(text, "checkpoint of a detector that takes none, to compare with", "none"),
        **{key: OPTIONS[key] for key in ("data", "imgsz", "batch", "split", "device", "out")},
        "images": Option(whole(0), "how many of the split, 0 for all", "0"),
    },
    run,
    {"model": "a checkpoint as first argument, such as best.pt"},
)
