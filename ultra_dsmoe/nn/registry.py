"""Registry of the layers that a model YAML may name, and the contract of their parse rules.

A layer is an ordinary ``nn.Module``. `register` enrols it under its class name; its static ``parse(ctx)`` turns one
YAML row (`RowContext`) into constructor arguments and output channels (`RowPlan`). The host's own parser never sees
these classes: `ultra_dsmoe.plugin` swaps them in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError

LAYERS: dict[str, type[nn.Module]] = {}


@dataclass(frozen=True)
class RowContext:
    """One YAML row as a parse rule sees it.

    Attributes:
        name: Class name of the row.
        c1: Channels of the input, or a list of them where the row's ``from`` is a list.
        args: The row's arguments, names such as ``nc`` already replaced by their values.
        n: The row's repeats, already scaled by the depth multiple.
        nc: Number of classes.
        width: Width multiple of the scale.
        max_channels: Upper bound of channels before the width multiple.
        reg_max: Bins of the box distribution.
        end2end: Whether the head gets a one-to-one branch.
        options: The model YAML's ``dsmoe:`` section.
    """

    name: str
    c1: int | list[int]
    args: list[Any]
    n: int = 1
    nc: int = 80
    width: float = 1.0
    max_channels: float = math.inf
    reg_max: int = 16
    end2end: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def scaled(self, channels: int) -> int:
        """Return ``channels`` after the scale's width multiple, rounded up to a multiple of 8 as the host does.

        Raises:
            ValueError: If they are no positive integer; the row that they stand in is named by who asks its rule.
        """
        if not checks.is_whole(channels, 1):
            raise ValueError(f"{channels} are no channels")
        return math.ceil(min(channels, self.max_channels) * self.width / 8) * 8

    def inputs(self, low: int, high: int | None = None) -> list[int]:
        """Return the channels of all inputs.

        Args:
            low: Least number of inputs.
            high: Largest number of inputs, ``low`` when omitted.

        Raises:
            ConfigError: If the row has fewer or more inputs, or an input that is itself a list of maps.
        """
        channels = self.c1 if isinstance(self.c1, list) else [self.c1]
        high = low if high is None else high
        if not low <= len(channels) <= high:
            count = str(low) if low == high else f"{low} to {high}"
            raise ConfigError(f"model YAML row {self.name}", f"'from' with {count} inputs", f"{len(channels)}")
        if any(isinstance(c, (list, tuple)) for c in channels):
            raise ConfigError(f"model YAML row {self.name}", "tensor inputs (use Pick on a list row)", f"{channels}")
        return channels

    def arg(self, index: int, default: Any = None) -> Any:
        """Return the row's argument ``index``, or ``default`` where the row is shorter."""
        return self.args[index] if index < len(self.args) else default


@dataclass(frozen=True)
class RowPlan:
    """What to build for a row.

    Attributes:
        args: Positional constructor arguments.
        kwargs: Keyword constructor arguments.
        c2: Output channels; a list for a row that returns a list of maps.
        repeats: How many copies to chain in an ``nn.Sequential``.
    """

    args: list[Any]
    c2: int | list[int]
    kwargs: dict[str, Any] = field(default_factory=dict)
    repeats: int = 1


def register(cls: type[nn.Module]) -> type[nn.Module]:
    """Enrol ``cls`` under its class name so that a model YAML may use it.

    Raises:
        ConfigError: If the class has no ``parse`` rule or another class holds the name.
    """
    name = cls.__name__
    if not callable(getattr(cls, "parse", None)):
        raise ConfigError(f"register({name})", "a class with a static parse(ctx) rule", "none")
    if LAYERS.setdefault(name, cls) is not cls:
        raise ConfigError(f"register({name})", "a name that is not taken", f"{LAYERS[name].__module__}.{name}")
    return cls
