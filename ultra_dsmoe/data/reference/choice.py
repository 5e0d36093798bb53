"""Which known-good pictures a call has: those of its key, or those that its data YAML names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ultra_dsmoe.data.reference.spec import ReferenceSpec, is_nothing, read_spec
from ultra_dsmoe.errors import ConfigError

KEY, SECTION = "dsmoe_reference", "reference"  # of a call, and of a data YAML


def chosen(content: Mapping[str, Any], root: Path, key: Any = None) -> ReferenceSpec | None:
    """Return where the references of a data set are, None where there are none.

    Args:
        content: Of the data YAML.
        root: What paths in it start from.
        key: Value of the key, which wins over the YAML; None where it was not given.

    Raises:
        ConfigError: If one of them is no place of references.
    """
    if key is not None and is_nothing(key):
        return None
    section = read_spec(SECTION, content.get(SECTION), root)
    return section if key is None else read_spec(KEY, key, Path.cwd(), section)


def require_no_list(value: Any, what: str) -> None:
    """Refuse references one by one where images are not listed one by one.

    Args:
        value: Of the key.
        what: What it was given to, for the error.

    Raises:
        ConfigError: If it is a list.
    """
    if isinstance(value, (list, tuple)):
        expected = "a folder, a CSV, a pattern or one picture for all images (a list with predict and track alone)"
        raise ConfigError(KEY, expected, f"{what} with a list of {len(value)}")
