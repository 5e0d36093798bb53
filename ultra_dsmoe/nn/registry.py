"""Registry of the layers that a model YAML may name, and the contract of their parse rules.

A layer is an ordinary ``nn.Module``. `register` enrols it under its class name; its static ``parse(ctx)`` turns one
YAML row (`RowContext`) into constructor arguments and output channels (`RowPlan`). The host's own parser never sees
these classes: `ultra_dsmoe.plugin` swaps them in. What else a layer may bring along is in `ultra_dsmoe.nn.contract`;
`options`, `aux_names` and `knockouts` gather it from all layers, a user's own included.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.base import AuxLossMixin
from ultra_dsmoe.nn.contract import HOST_COLUMNS, NET_OPTIONS, AuxTerm, Option, task_of
from ultra_dsmoe.nn.knockout import Knockout

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

    def option(self, name: str) -> Any:
        """Return the checked value of an option that the row's class declares, its default where the section has none.

        Raises:
            ConfigError: If the value is wrong, or the class declares no such option.
        """
        declared = contract(LAYERS[self.name], "options")
        if name not in declared:
            raise ConfigError(f"option '{name}' of {self.name}", "an entry in the class's options", "none")
        return declared[name].checked(f"dsmoe.{name}", name, self.options)


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


class _Arguments(list[Any]):
    """A row's arguments that know which of them were read.

    Attributes:
        read: Their places.
    """

    def __init__(self, values: list[Any]) -> None:
        super().__init__(values)
        self.read: set[int] = set()

    def __getitem__(self, index: Any) -> Any:
        places = range(len(self))[index]
        self.read.update([places] if isinstance(places, int) else places)
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[Any]:
        self.read.update(range(len(self)))
        return super().__iter__()


def plan_row(ctx: RowContext) -> RowPlan:
    """Ask a layer's parse rule what to build for a row.

    Raises:
        ConfigError: If the rule refuses the row, or does not look at one of its arguments or at its repeats.
    """
    rule = LAYERS[ctx.name].parse  # type: ignore[attr-defined]  # register() has seen to it
    args = _Arguments(ctx.args)
    plan: RowPlan = rule(replace(ctx, args=args))
    if surplus := [i for i in range(len(args)) if i not in args.read]:
        got = f"{ctx.args[surplus[0]]!r} as number {surplus[0] + 1}"
        raise ConfigError(f"model YAML row {ctx.name}", "arguments that the layer reads", got)
    if ctx.n > 1 and rule(replace(ctx, n=ctx.n + 1)) == plan:
        raise ConfigError(f"model YAML row {ctx.name}", "1 repeat, as the layer knows none", f"{ctx.n}")
    return plan


def register(cls: type[nn.Module]) -> type[nn.Module]:
    """Enrol ``cls`` under its class name so that a model YAML may use it.

    Raises:
        ConfigError: If the class has no ``parse`` rule, another class holds the name, or what it brings along is wrong
            or clashes with another class's.
    """
    name = cls.__name__
    if not callable(getattr(cls, "parse", None)):
        raise ConfigError(f"register({name})", "a class with a static parse(ctx) rule", "none")
    if LAYERS.get(name, cls) is not cls:
        raise ConfigError(f"register({name})", "a name that is not taken", f"{LAYERS[name].__module__}.{name}")
    for check in (_check_options, _check_aux_terms, _check_knockouts):
        check(cls, f"register({name})")
    LAYERS[name] = cls
    return cls


def contract(cls: type, attribute: str) -> dict[str, Any]:
    """Return a mapping that a layer may declare, empty where it does not."""
    return dict(getattr(cls, attribute, None) or {})


def options(task: str | None = None, rows: Iterable[str] = ()) -> dict[str, Option]:
    """Return the options of all layers.

    Args:
        task: Only those of layers that are made for nets of this task.
        rows: Names of layers whose options belong to them in any case: those that a net has.
    """
    named = set(rows)
    layers = [cls for name, cls in LAYERS.items() if task in (None, task_of(cls)) or name in named]
    return {name: option for cls in layers for name, option in contract(cls, "options").items()}


def aux_names() -> list[str]:
    """Return the names of all layers' auxiliary terms."""
    return list(dict.fromkeys(name for cls in LAYERS.values() for name in contract(cls, "aux_terms")))


def knockouts() -> Iterator[tuple[type[nn.Module], Knockout]]:
    """Yield what can be switched off in which layers; what a class inherits belongs to its base."""
    for cls in LAYERS.values():
        yield from ((cls, knockout) for knockout in vars(cls).get("knockouts", ()))


def _check_options(cls: type[nn.Module], argument: str) -> None:
    for name, option in contract(cls, "options").items():
        if not isinstance(option, Option) or name in NET_OPTIONS:
            got = "a key that concerns the whole net" if name in NET_OPTIONS else option
            raise ConfigError(f"{argument} options['{name}']", "an Option under a key of the block's own", got)
        for other in LAYERS.values():
            if contract(other, "options").get(name, option) is not option:
                raise ConfigError(f"{argument} options['{name}']", f"the Option of {other.__name__}", "another one")


def _check_aux_terms(cls: type[nn.Module], argument: str) -> None:
    terms = contract(cls, "aux_terms")
    if terms and not issubclass(cls, AuxLossMixin):
        raise ConfigError(f"{argument} aux_terms", "a class derived from AuxLossMixin", f"{cls.__bases__[0].__name__}")
    for name, term in terms.items():
        if not isinstance(term, AuxTerm) or not term.column.endswith("_loss") or term.column in HOST_COLUMNS:
            expected = "an AuxTerm whose column ends in _loss and is none of Ultralytics'"
            raise ConfigError(f"{argument} aux_terms['{name}']", expected, term)


def _check_knockouts(cls: type[nn.Module], argument: str) -> None:
    own = [knockout.name for knockout in vars(cls).get("knockouts", ())]
    taken = {knockout.name for other, knockout in knockouts() if other is not cls}
    if len(set(own)) < len(own) or taken & set(own):
        raise ConfigError(f"{argument} knockouts", "names that are not taken", ", ".join(own))
