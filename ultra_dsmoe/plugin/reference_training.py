"""Whether a training has known-good pictures, found out before there is a trainer: then it is one of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ultra_dsmoe.errors import ConfigError, DSMoEError
from ultra_dsmoe.plugin import distill_choice


def is_wanted(model: Any, ours: bool, given: Mapping[str, Any], arguments: Mapping[str, Any]) -> bool:
    """Whether a detector is to be trained on pairs of images and known-good pictures.

    Args:
        model: The host's ``YOLO`` object.
        ours: Whether its network is a detector of ours, whose trainer finds out by itself.
        given: Our keys, checked.
        arguments: The host's, as they were given; a run that goes on has a network that says so itself.

    Raises:
        DSMoEError: If the key or the data YAML names no place of references; if some of several data sets have
            references and others not; if the key is given for what is no detector.
    """
    from ultra_dsmoe.data.reference.choice import KEY

    if arguments.get("resume"):
        return False
    data, key = arguments.get("data") or getattr(model, "overrides", {}).get("data"), given.get(KEY)
    named = data if isinstance(data, (list, tuple)) else [data]
    if not (ours or distill_choice.is_stock_detector(model)):
        _no_detector(model, key, named)
        return False
    found = [_has_references(name, key) for name in named]
    if not any(found):
        return False
    if not all(found):
        without = named[found.index(False)]
        raise ConfigError("data", "several data sets that all have references, or none of them", f"{without} without")
    return True


def _no_detector(model: Any, key: Any, named: Sequence[Any]) -> None:
    """Say that a model that is no detector does not compare; its data YAML may say anything under ``reference:``.

    Raises:
        ConfigError: If the key names references.
    """
    from ultralytics.utils import LOGGER

    from ultra_dsmoe.data.reference.choice import KEY
    from ultra_dsmoe.data.reference.spec import is_nothing

    name = str(getattr(model, "model_name", None) or type(model).__name__)
    if key is not None and not is_nothing(key):
        raise ConfigError(KEY, "a detector (YOLOv8, YOLO11, YOLO26 or one of ours)", name)
    with suppress(DSMoEError):  # what is no place of references means something else
        if any(_has_references(data, key) for data in named):
            LOGGER.warning(f"reference: not used, since {name} is no detector that compares images with references")


def _has_references(data: Any, key: Any) -> bool:
    """Whether the key or the data YAML that a call names has references; what is no file on this disk names none."""
    from ultra_dsmoe.data.reference.choice import chosen
    from ultra_dsmoe.data.source import root_of

    file = _yaml(data)
    content: Any = _content(file) if file else None
    content = content if isinstance(content, dict) else {}  # the host says what is wrong with it
    root = content.get("path")
    is_good = root is None or isinstance(root, str)
    return chosen(content, root_of(content, file) if file and is_good else Path.cwd(), key) is not None


def _yaml(data: Any) -> str | None:
    """Return the YAML that ``data`` names as the host finds it, by its bare name or its folder too."""
    from ultralytics.utils import checks

    if not isinstance(data, (str, Path)) or "://" in str(data):
        return None
    if Path(data).is_dir():
        return str(next(iter(sorted(Path(data).glob("*.y*ml"))), "")) or None
    names = [str(data)] if str(data).endswith((".yaml", ".yml")) else [f"{data}.yaml", f"{data}.yml"]
    return next(filter(None, (checks.check_file(name, hard=False) for name in names)), None)


def _content(file: str) -> Any:
    """Return what a YAML file holds, None where it is none: the host says so."""
    import yaml
    from ultralytics.utils import YAML

    try:
        return YAML.load(file)
    except (OSError, ValueError, yaml.YAMLError):
        return None
