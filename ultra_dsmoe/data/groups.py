"""Images of one board or tile: not independent of each other, so drawn and divided together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ultra_dsmoe.errors import DataError


def check_groups(source: str, pattern: Any) -> str | None:
    """Return the ``groups`` of a data YAML, None where it has none.

    Args:
        source: The YAML, for the error.
        pattern: What stands there.

    Raises:
        DataError: If it is no regular expression with one group.
    """
    try:
        if pattern is not None and re.compile(pattern).groups != 1:
            raise DataError(f"{source}: groups", "a regular expression with one group in parentheses", pattern)
    except (re.error, TypeError) as e:
        raise DataError(f"{source}: groups", "a regular expression", pattern) from e
    return pattern


def group_numbers(files: Sequence[str], pattern: str | None) -> np.ndarray:
    """Return the number of the group of each image, (I,): of one board or tile, or each image its own.

    Args:
        files: Image files.
        pattern: Regular expression with one group, searched in the name without its ending; None for no groups.
    """
    matches = (re.search(pattern, Path(file).stem) if pattern else None for file in files)
    keys = [f"group {m[1]}" if m and m[1] else f"image {i}" for i, m in enumerate(matches)]
    return np.unique(keys, return_inverse=True)[1]
