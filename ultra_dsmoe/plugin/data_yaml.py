"""What is refused of a data set before the host makes a folder for a run with it."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

from ultra_dsmoe.errors import DataError


def require_classes(data: Any) -> None:
    """Refuse a data YAML, or one of several, that names no class.

    Args:
        data: The host's ``data`` argument; what is no YAML file on this disk is left to the host.

    Raises:
        DataError: If its ``names`` are empty, or missing beside ``nc: 0``.
    """
    from ultralytics.utils import YAML, checks

    for name in filter(_is_yaml, data if isinstance(data, (list, tuple)) else [data]):
        file = checks.check_file(name, hard=False)
        content = YAML.load(file) if file else {}
        if not isinstance(content, dict):  # the host says so
            continue
        names = content.get("names")
        if names in ({}, [], "") or (names is None and content.get("nc") == 0):
            raise DataError("names", f"at least one class in {name}", "nc: 0" if names is None else names)


def require_images(data: Any, split: str | None) -> None:
    """Have the host look for a data set's images, and get them where its YAML says how.

    Args:
        data: The host's ``data`` argument, as above.
        split: The host's ``split`` argument; older hosts always look for the validation images.

    Raises:
        Exception: What the host or the YAML's ``download`` line says of images that are missing.
    """
    if _is_yaml(data):
        from ultralytics.data.utils import check_det_dataset

        given: dict[str, Any] = {"split": split} if split else {}
        taken = signature(check_det_dataset).parameters
        check_det_dataset(str(data), **{k: v for k, v in given.items() if k in taken})


def _is_yaml(data: Any) -> bool:
    """Whether an argument names a YAML file that is not somewhere on the net."""
    return isinstance(data, (str, Path)) and str(data).endswith((".yaml", ".yml")) and "://" not in str(data)
