"""Sub-commands of ``dsmoe-yolo``, one file each: arguments, help and printing.

`TABLE` lists them; a command's module is imported when it runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from ultra_dsmoe.errors import ConfigError, did_you_mean, nearest

__all__ = ["TABLE", "Entry", "near_miss", "page", "run"]


class Entry(NamedTuple):
    """Where a sub-command is, and what it does in a line."""

    module: str
    name: str
    summary: str


TABLE = {
    "data list": Entry("data", "LIST", "the packaged data sets and whether their images are here"),
    "data make": Entry("data", "MAKE", "draw pcb-demo, boards with exact boxes, or hits-demo, drill hits with records"),
    "data unpack": Entry("data", "UNPACK", "put the images of a set in place from a tar or zip in YOLO layout"),
    "data convert-voc": Entry("data", "CONVERT_VOC", "convert a folder of images and Pascal VOC .xml files"),
    "data convert-masks": Entry("data", "CONVERT_MASKS", "convert images with pixel masks, or in a folder per class"),
    "data splice": Entry("data", "SPLICE", "copy a set with more training images of a class, turned and spliced"),
    "data tda": Entry("data", "TDA", "copy a classification set with drawn images of hits among its training ones"),
    "data crops": Entry("data_crops", "COMMAND", "make a classification set of the boxes of a detection set"),
    "data sizes": Entry("data_sizes", "COMMAND", "what the box sizes of a data set ask of image size and head"),
    "reference preview": Entry("reference", "PREVIEW", "draw images beside their known-good pictures"),
    "text lint": Entry("text", "LINT", "what training would refuse of the descriptions, or could not tell apart"),
    "text generate": Entry("text", "GENERATE", "have a language model on this disk write descriptions"),
    "text encode": Entry("text", "ENCODE", "encode the descriptions once, for a machine without the model"),
    "text describe": Entry(
        "describe", "COMMAND", "write the two texts of each image of a classification set beside it"
    ),
    "text paraphrases": Entry("paraphrases", "COMMAND", "accuracy of a checkpoint under other wordings"),
    "knockout": Entry("knockout", "COMMAND", "accuracy of a checkpoint with one part switched off at a time"),
    "routing": Entry("routing", "COMMAND", "which experts a checkpoint uses for which defect"),
    "pictures": Entry("pictures", "COMMAND", "routing map, sizes and class anchors of a checkpoint, drawn"),
    "topk": Entry("topk", "COMMAND", "accuracy, work and latency over the experts per image"),
    "calibrate": Entry("calibrate", "COMMAND", "fit the sharpness of a checkpoint's gate on half of the images"),
    "distill-masks": Entry("distill_masks", "COMMAND", "where a teacher makes its student look, drawn"),
    "edge lint": Entry("edge", "LINT", "what TensorRT 8.6 would refuse or misread in an ONNX file"),
    "edge check": Entry("edge", "CHECK", "the recipe of a card, and what cannot work on it"),
    "edge quantize": Entry("quantize", "COMMAND", "put Q/DQ nodes for INT8 into an ONNX file"),
    "edge build": Entry("edge", "BUILD", "build a TensorRT engine on the box that will run it"),
    "study": Entry("study", "COMMAND", "train, validate and compare models over data sets and seeds"),
}


def page(group: str = "") -> str:
    """Return the list of all sub-commands, or of one group, a line each."""
    shown = {words: entry for words, entry in TABLE.items() if words.startswith(group)}
    width = max(map(len, shown))
    lines = [f"  {words:<{width}}  {entry.summary}" for words, entry in shown.items()]
    usage = f"usage: dsmoe-yolo {group}COMMAND ... key=value"
    return "\n".join([usage, "", *lines, "", "'dsmoe-yolo COMMAND --help' lists the keys of one."])


def run(argv: list[str]) -> int | None:
    """Run the sub-command that the words begin with.

    Args:
        argv: Words behind ``dsmoe-yolo``.

    Returns:
        The exit code; None where the words are no sub-command's.

    Raises:
        DSMoEError: On bad input.
    """
    for words in (2, 1):  # the longer name first
        if (name := " ".join(argv[:words])) in TABLE:
            entry = TABLE[name]
            command = getattr(import_module(f"ultra_dsmoe.commands.{entry.module}"), entry.name)
            return command.main(argv[words:])
    group = argv[0] if argv else ""
    members = [words.split()[1] for words in TABLE if words.startswith(f"{group} ")]
    if not members:
        return None
    if len(argv) == 1 or argv[1] in ("help", "-h", "--help"):
        print(page(f"{group} "))
        return 0
    raise ConfigError(group, f"{', '.join(members)}{did_you_mean(argv[1], members)}", argv[1])


def near_miss(word: str) -> str | None:
    """Return the sub-command that a mistyped first word was meant to be, None where none is near."""
    return nearest(word, dict.fromkeys(words.split()[0] for words in TABLE))
