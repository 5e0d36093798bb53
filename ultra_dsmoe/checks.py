"""Checks of single values: each returns the value, or says in one line what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

from ultra_dsmoe.errors import ConfigError, DSMoEError, TextError, did_you_mean


def is_whole(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether a value is a whole number within bounds; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) <= high


def is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether a value is a finite number within bounds; True and False are none."""
    is_one = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return is_one and low <= value <= high


def whole(
    argument: str,
    value: Any,
    low: int = 1,
    high: float = math.inf,
    *,
    expected: str | None = None,
    kind: type[DSMoEError] = ConfigError,
) -> int:
    """Return a whole number from ``low`` to ``high``.

    Args:
        argument: Name of the argument, for the error.
        value: What was given.
        low: The least that is accepted.
        high: The most that is accepted.
        expected: What is expected, in other words than the usual ones.
        kind: Class of the error.

    Raises:
        DSMoEError: If it is something else.
    """
    if not is_whole(value, low, high):
        least = "a positive integer" if low == 1 else f"a whole number of at least {low}"
        raise kind(argument, expected or (least if high == math.inf else f"a whole number from {low} to {high}"), value)
    return int(value)


def number(argument: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """Return a finite number from ``low`` to ``high``.

    Raises:
        ConfigError: If it is something else.
    """
    if not is_number(value, low, high):
        least = "a finite number" if low == -math.inf else f"a number >= {low:g}"
        raise ConfigError(argument, least if high == math.inf else f"a number from {low:g} to {high:g}", value)
    return float(value)


def positive(argument: str, value: Any, unit: str = "") -> float:
    """Return a finite number above 0.

    Args:
        argument: Name of the argument, for the error.
        value: What was given.
        unit: Of what it is a number, or what for; said in the error behind the bound.

    Raises:
        ConfigError: If it is something else.
    """
    if not is_number(value) or value <= 0:
        raise ConfigError(argument, f"a number above 0{unit and f', {unit}'}", value)
    return float(value)


def flag(argument: str, value: Any) -> bool:
    """Return a switch.

    Raises:
        ConfigError: If it is neither True nor False.
    """
    if not isinstance(value, bool):
        raise ConfigError(argument, "true or false", value)
    return value


def one_of(argument: str, value: Any, options: Iterable[Any], kind: type[DSMoEError] = ConfigError) -> Any:
    """Return one of ``options``; raise an error of ``kind`` where it is none of them."""
    names = list(options)
    if not any(value is name or (type(value) is type(name) and value == name) for name in names):
        hint = did_you_mean(value, map(str, names)) if isinstance(value, str) else ""
        raise kind(argument, f"one of {', '.join(map(str, names))}{hint}", value)
    return value


def known(argument: str, names: Iterable[Any], options: Iterable[str], what: str = "keys") -> None:
    """Refuse names that are not among ``options``.

    Args:
        argument: What has them, for the error.
        names: What was given.
        options: What they may be.
        what: What they are.

    Raises:
        ConfigError: If one is something else.
    """
    allowed = list(options)
    for name in names:
        if name not in allowed:
            raise ConfigError(argument, f"{what} out of {', '.join(allowed)}{did_you_mean(name, allowed)}", str(name))


def sizes(owner: str, **values: Any) -> None:
    """Refuse sizes of a block that are no positive integers.

    Args:
        owner: Name of the block, for the error.
        **values: Its arguments by name; a list or tuple is checked entry by entry.

    Raises:
        ConfigError: If one is something else, or a list has no entry.
    """
    for name, value in values.items():
        if not isinstance(value, (list, tuple)):
            whole(f"{owner} {name}", value)
        elif not value:
            raise ConfigError(f"{owner} {name}", "at least one entry", value)
        else:
            for i, entry in enumerate(value):
                whole(f"{owner} {name}[{i}]", entry)


def class_names(names: Any, kind: type[DSMoEError] = TextError) -> tuple[str, ...]:
    """Return the class names in class order.

    Args:
        names: The data YAML's ``names``: index to name, or a plain list.
        kind: Class of the error.

    Raises:
        DSMoEError: If there is no class, the indices are not 0..K-1 or a name is empty.
    """
    if isinstance(names, str) or not isinstance(names, (Mapping, Sequence)):
        raise kind("names", "a mapping of index to class name, or a list of names", names)
    if not names:
        raise kind("names", "at least one class", names)
    if isinstance(names, Mapping):
        missing = set(range(len(names))) - {k for k in names if isinstance(k, int)}
        if missing:
            raise kind("names", f"indices 0 to {len(names) - 1}", f"{list(names)}")
        names = [names[i] for i in range(len(names))]
    for i, name in enumerate(names):
        # A bare number is a legal YAML name (digits, part numbers); the host turns it into text as well.
        if name is None or isinstance(name, (Mapping, list, tuple)) or not str(name).strip():
            raise kind(f"names[{i}]", "a class name that is not empty", name)
    return tuple(str(name).strip() for name in names)
