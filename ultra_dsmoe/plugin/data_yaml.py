"""What is refused of a data set before the host makes a folder for a run with it."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultra_dsmoe import checks as checks_of_values
from ultra_dsmoe.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ultra_dsmoe.data.source import DataSource


def require_classes(data: Any) -> None:
    """Refuse a data YAML, or one of several, whose classes or channels cannot be meant.

    Args:
        data: The host's ``data`` argument; what is no YAML file on this disk is left to the host.

    Raises:
        DataError: If its ``names`` are empty, or missing beside ``nc: 0``; if one of them is no name; if ``channels``
            is no number of channels.
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
        entries = names.items() if isinstance(names, dict) else enumerate(names if isinstance(names, list) else ())
        for key, entry in entries:
            if not isinstance(entry, (str, int, float)):
                raise DataError(f"names[{key}]", f"the name of a class in {name}", entry)
        if content.get("channels") is not None:
            checks_of_values.whole("channels", content["channels"], expected=f"1, 3 or more in {name}", kind=DataError)


def require_images(source: DataSource | None, remembered: Any, split: str | None) -> None:
    """Have the host look for a data set's images before it makes a folder for the run.

    What the user named it gets where its YAML says how; what a checkpoint remembers has to be on this disk.

    Args:
        source: The data set of the call, None where neither the user nor the checkpoint has one here.
        remembered: What the checkpoint says; the host would follow it.
        split: The host's ``split`` argument; older hosts always look for the validation images.

    Raises:
        ConfigError: If the user named none, and the checkpoint an address or a bare name.
        DataError: If images that the checkpoint remembers are missing.
        Exception: What the host or the YAML's ``download`` line says of images that are missing.
    """
    if source is None:
        far = isinstance(remembered, str) and ("://" in remembered or not set(remembered) & set("/\\"))
        if far:  # an address, or the name of a set that the host knows how to fetch
            expected = "a data YAML, or a classifier's folder (only what you name is downloaded)"
            raise ConfigError("data", expected, f"{remembered} of the checkpoint")
    elif not source.named:
        source.require_local(split or "val")
    elif _is_yaml(source.yaml):
        from ultralytics.data.utils import check_det_dataset

        given: dict[str, Any] = {"split": split} if split else {}
        taken = signature(check_det_dataset).parameters
        check_det_dataset(source.yaml, **{k: v for k, v in given.items() if k in taken})


def _is_yaml(data: Any) -> bool:
    """Whether an argument names a YAML file that is not somewhere on the net."""
    return isinstance(data, (str, Path)) and str(data).endswith((".yaml", ".yml")) and "://" not in str(data)
