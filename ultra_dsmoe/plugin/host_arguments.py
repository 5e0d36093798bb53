"""Arguments of the host's that it does not check itself and that end deep inside it when they are wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ultra_dsmoe.checks import is_number, is_whole
from ultra_dsmoe.errors import ConfigError

# The words with which the name of a device may begin; numbers are those of GPUs.
DEVICES = re.compile(r"[\s(\[]*(?:auto|cpu|cuda|mps|npu|xpu|intel|none|dla|-?\d|$)", re.IGNORECASE)


def _wholes(value: Any, low: int) -> bool:
    """Whether all are whole numbers, as far as can be told: arrays and the like are left to the host."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return all(is_whole(v, low) for v in values if isinstance(v, (str, int, float, dict, list, tuple)))


def _frozen(value: Any, verb: str) -> bool:
    """How many of the first layers, or a list of layers by number or by part (``23.cv2``); the host skips all else."""
    if not isinstance(value, (list, tuple)):
        return is_whole(value, 0)
    return all(is_whole(v, 0) or (isinstance(v, str) and PART.fullmatch(v)) for v in value)


def _scale(value: Any, verb: str) -> bool:
    """A share, or the least and the greatest."""
    values = value if isinstance(value, (list, tuple)) and len(value) == 2 else [value]
    return all(is_number(v, 0) for v in values)


def _batch(value: Any, verb: str) -> bool:
    """A number of images; a training may also have -1 or a share of the GPU's memory."""
    return is_whole(value, 1) or (verb == "train" and (value == -1 or (is_number(value, 0, 1) and value > 0)))


PART = re.compile(r"\d+(\.\w+)*")  # of a net's layers
CACHES = ("ram", "disk", "lmdb", "true", "false")

CHECKS: dict[str, tuple[str, Callable[[Any, str], bool]]] = {
    "batch": ("a number of images, of at least 1", _batch),
    "cache": ("True, False, ram, disk or lmdb", lambda value, verb: str(value).lower() in CACHES),
    "classes": ("the number of a class, or a list of them", lambda value, verb: _wholes(value, 0)),
    "device": ("cpu, mps, or the number of a GPU or several", lambda value, verb: bool(DEVICES.match(str(value)))),
    "embed": ("the number of a layer, or a list of them", lambda value, verb: _wholes(value, 0)),
    "format": ("the name of a format", lambda value, verb: isinstance(value, str)),
    "freeze": ("a number of layers, or a list of layers such as 3 or 23.cv2", _frozen),
    "imgsz": (
        "a size in pixels, of at least 1, or height and width",
        lambda value, verb: isinstance(value, str) or _wholes(value, 1),  # of text the host says so
    ),
    "scale": ("a number of at least 0, or two of them", _scale),
}


def check(verb: str, arguments: Mapping[str, Any]) -> None:
    """Check what is given of `CHECKS`.

    Args:
        verb: What is to be done.
        arguments: Of the call, the host's.

    Raises:
        ConfigError: If one has a value that it cannot have.
    """
    for key, (expected, is_good) in CHECKS.items():
        value = arguments.get(key)
        if value is not None and not is_good(value, verb):
            raise ConfigError(key, expected, value)
