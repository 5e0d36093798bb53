"""The teacher of a distillation: loaded, frozen, and refused where the student could not learn from it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn
from ultralytics.nn.modules import Detect
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils import SETTINGS
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

from ultra_dsmoe.causes import reading
from ultra_dsmoe.constants import AUTO_TEACHER
from ultra_dsmoe.errors import ConfigError, WeightsError, did_you_mean


def check_file(weights: Any, argument: str = "distill_model") -> str:
    """Return the name of a teacher's checkpoint that is on this disk, or that the host downloads.

    Args:
        weights: What was given.
        argument: Under which name, for the error.

    Raises:
        WeightsError: If it is neither.
    """
    name = str(weights).strip()
    here = any(map(os.path.isfile, (name, os.path.join(SETTINGS["weights_dir"], name))))
    if not name.lower().endswith(".pt"):
        raise WeightsError(argument, f"the teacher's checkpoint (.pt){did_you_mean(name, [AUTO_TEACHER])}", name)
    if not here and "://" not in name and Path(name).name not in GITHUB_ASSETS_NAMES:
        raise WeightsError(argument, "an existing checkpoint", f"{name}, which is not a file")
    return name


def load_teacher(weights: Any, argument: str = "distill_model") -> Any:
    """Return the detector of a checkpoint, in evaluation mode and without gradients; arguments as of `check_file`.

    Raises:
        WeightsError: If the file is missing, damaged, or of another task than detection.
    """
    name = check_file(weights, argument)
    with reading(argument, "a readable checkpoint", WeightsError, name):
        net: Any = load_checkpoint(name)[0]
    net = getattr(net, "student_model", net)  # of a distillation that was interrupted
    head = net.model[-1] if isinstance(getattr(net, "model", None), nn.Sequential) else None
    task = getattr(net, "task", None) or "another"
    if not isinstance(head, Detect) or task != "detect":
        raise WeightsError(argument, "a detector as teacher", f"{name} ({type(head).__name__}, task {task})")
    return net.eval().requires_grad_(False)


def check_teacher(teacher: Any, student: Any, names: dict[int, str], weights: Any) -> None:
    """Refuse a teacher of other classes, of another order of classes, or of images with other channels.

    Args:
        teacher: The teacher's net.
        student: The student's net.
        names: Class names of the data set.
        weights: What to call the teacher.

    Raises:
        ConfigError: If they do not suit each other.
    """
    check_classes(teacher, names, weights)
    channels = [net.yaml.get("channels", 3) for net in (student, teacher)]
    if channels[0] != channels[1]:
        raise ConfigError("distill_model", f"a teacher of {channels[0]}-channel images", f"{weights} ({channels[1]})")


def check_classes(teacher: Any, names: dict[int, str], weights: Any) -> None:
    """Refuse a teacher of other classes or of another order of classes; arguments as of `check_teacher`.

    Raises:
        ConfigError: If its classes are not the data's.
    """
    wanted, have = list(names.values()), _names(teacher)
    if len(wanted) != len(have):
        expected = f"a teacher of {len(wanted)} classes, as the data"
        raise ConfigError("distill_model", expected, f"{weights} ({len(have)})")
    if wanted != have:
        n = next(i for i, pair in enumerate(zip(wanted, have, strict=True)) if pair[0] != pair[1])
        order = "in the order of the data" if sorted(wanted) == sorted(have) else "named as in the data"
        expected = f"a teacher whose classes are {order}, class {n} '{wanted[n]}'"
        raise ConfigError("distill_model", expected, f"{weights}, class {n} '{have[n]}'")


def _names(net: Any) -> list[str]:
    names = net.names
    return list(names.values()) if isinstance(names, dict) else list(names)
