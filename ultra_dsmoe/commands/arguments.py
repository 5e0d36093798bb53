"""Host-style arguments of this folder's commands: one file and ``key=value`` pairs, checked before any work."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from ultra_dsmoe.errors import ConfigError, did_you_mean

SPLITS = ("train", "val", "test")
MIN_PIXELS = 32  # the largest stride of our model YAMLs
MAX_SEED = 2**32 - 1  # of the random generators

CHECKPOINT = ("model", "a DS-MoE checkpoint as first argument, such as best.pt")
DATA = ("data", "a data YAML as first argument, such as neu-det.yaml")

Check = Callable[[str, str], Any]


def text(key: str, value: str) -> str:
    """Accept any text but an empty one."""
    if not value.strip():
        raise ConfigError(key, "a value, as in 'key=value'", "none")
    return value


def whole(low: int, high: int | None = None) -> Check:
    """Return a check for whole numbers from ``low`` to ``high``."""
    expected = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
    return _within(int, low, math.inf if high is None else high, expected)


def number(low: float, high: float) -> Check:
    """Return a check for numbers from ``low`` to ``high``."""
    return _within(float, low, high, f"a number from {low:g} to {high:g}")


def _within(read: Callable[[str], float], low: float, high: float, expected: str) -> Check:
    """Return a check for what ``read`` makes of the text, from ``low`` to ``high``."""

    def check(key: str, value: str) -> float:
        given = text(key, value)
        try:
            found = read(given)
        except ValueError as e:
            raise ConfigError(key, expected, value) from e
        if not low <= found <= high:  # NaN neither
            raise ConfigError(key, expected, value)
        return found

    return check


def yes_no(key: str, value: str) -> bool:
    """Accept True or False in any case, as the host does."""
    if text(key, value).lower() not in ("true", "false"):
        raise ConfigError(key, "True or False", value)
    return value.lower() == "true"


def one_of(options: Iterable[str]) -> Check:
    """Return a check for one of some names."""
    names = list(options)

    def check(key: str, value: str) -> str:
        if text(key, value) not in names:
            raise ConfigError(key, f"one of {', '.join(names)}{did_you_mean(value, names)}", value)
        return value

    return check


def several_of(options: Iterable[str]) -> Check:
    """Return a check for names out of ``options``, separated by commas; gives them without repeats."""
    check_one = one_of(options)

    def check(key: str, value: str) -> list[str]:
        return list(dict.fromkeys(check_one(key, name.strip()) for name in text(key, value).split(",")))

    return check


COMMON: dict[str, Check] = {
    "model": text,
    "data": text,
    "imgsz": whole(MIN_PIXELS),
    "batch": whole(1),
    "split": one_of(SPLITS),
    "device": text,
    "seed": whole(0, MAX_SEED),
    "out": text,
}


def parse(argv: list[str], checks: dict[str, Check], first: tuple[str, str] = CHECKPOINT) -> dict[str, Any]:
    """Read ``best.pt key=value ...``; the first word may also be given with its key, as ``model=best.pt``.

    Args:
        argv: Words of the command line.
        checks: Check of each known key.
        first: Key of the word that stands without one, and what is expected of it.

    Returns:
        The checked values of the keys that were given.

    Raises:
        ConfigError: If a word is no known key with a proper value, or the first word is missing.
    """
    bare, expected = first
    values: dict[str, Any] = {}
    for word in argv:
        key, equals, value = word.partition("=")
        if not equals:
            if word in checks or bare in values:
                raise ConfigError(word, "a value, as in 'key=value'", "none")
            key, value = bare, word
        if key not in checks:
            raise ConfigError(key, f"one of {', '.join(checks)}{did_you_mean(key, checks)}", "an unknown key")
        values[key] = checks[key](key, value)
    if bare not in values:
        raise ConfigError(bare, expected, "none")
    return values
