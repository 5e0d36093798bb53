"""Checks of what stands in a study file, and the hashes that contents are known by."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from ultra_dsmoe.constants import MIN_PIXELS
from ultra_dsmoe.errors import ConfigError, did_you_mean

PLAIN_NAME = r"[A-Za-z0-9][\w.+-]*"  # is part of file names
DIGITS = 12  # of a hash; 48 bits keep a few thousand contents apart (our choice)
SIZES = {"epochs": 1, "imgsz": MIN_PIXELS, "batch": 1}  # of a training, with the least that each may be


def digest(content: str | bytes) -> str:
    """Return a short hash of a text."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:DIGITS]


@cache
def file_digest(file: Path) -> str:
    """Return a short hash of a file that does not change while the study runs."""
    return digest(file.read_bytes())


def pinned(source: str) -> str:
    """Return a path that holds in any working folder; bare names stay, they mean the same everywhere."""
    return os.path.abspath(source) if Path(source).is_file() else source


def known(content: dict[Any, Any], keys: Iterable[str], where: str) -> None:
    """Refuse keys other than these."""
    for key in content:
        if key not in keys:
            raise ConfigError(f"{where}: {key}", f"one of {', '.join(keys)}{did_you_mean(str(key), keys)}", "unknown")


def entries(value: Any, key: str) -> list[Any]:
    """Refuse what is no list."""
    if not isinstance(value, list):
        raise ConfigError(key, "a list", value)
    return value


def distinct(names: list[Any], key: str) -> None:
    """Refuse an entry that stands there twice."""
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise ConfigError(key, "every entry once; give models that share a file a name each", f"{twice} twice")


def plain(value: Any, key: str) -> str:
    """Refuse what cannot be a part of file names."""
    if not isinstance(value, str) or not re.fullmatch(PLAIN_NAME, value):
        raise ConfigError(key, "a name of letters, digits, '.', '_', '+' and '-', since files are called so", value)
    return value
