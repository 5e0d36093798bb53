"""``dsmoe-yolo edge quantize``."""

from __future__ import annotations

import logging
from pathlib import Path

from ultra_dsmoe.data.reference.in_force import in_force
from ultra_dsmoe.data.source import DataSource
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.evaluate.reference_choice import references_of
from ultra_dsmoe.export.images import split_images, spread
from ultra_dsmoe.logs import at_level
from ultra_dsmoe.parsing import Command, Given, Option, one_of, text, whole
from ultra_dsmoe.runtime.reference_entry import KEY

try:
    from ultra_dsmoe.export import quantize
except ModuleNotFoundError as e:
    raise ConfigError(str(e.name), "the package: pip install 'ultra-dsmoe[edge]'", "none") from e

TARGETS, IMAGES = list(quantize.TARGETS), quantize.IMAGES


def run(options: Given) -> int:
    """Calibrate on the validation images and write the file."""
    if "data" not in options:
        raise ConfigError("data", "a data YAML with a 'val' split, for calibration", "none")
    model, data = Path(options["model"]), DataSource(options["data"], named=True)
    with in_force(references_of(model, options.get(KEY), data, model.name)):
        images = spread(split_images(options["data"], download=True), options.get("images", IMAGES))
        print(f"calibrating {model} on {len(images)} images", flush=True)
        with at_level(logging.getLogger(), logging.ERROR):  # onnxruntime's advice is for files no optimizer has seen
            target = options.get("target", TARGETS[0])
            print(quantize.quantize(model, images, options.get("out"), target=target))
    return 0


COMMAND = Command(
    "edge quantize",
    "Puts Q/DQ nodes in front of the convolutions that may compute in INT8, calibrated on the validation images.",
    {
        "model": Option(text, "ONNX file written by `yolo export ... format=onnx`"),
        "data": Option(text, "data YAML with a 'val' split, for calibration"),
        KEY: Option(text, "known-good pictures of a file that compares", "`reference:` of the data YAML"),
        "images": Option(whole(1), "how many to calibrate on", str(IMAGES)),
        "target": Option(one_of(TARGETS), "|".join(TARGETS), TARGETS[0]),
        "out": Option(text, "file to write", "the model's name with -int8"),
    },
    run,
    {"model": "one .onnx file as first argument, such as best.onnx"},
)
