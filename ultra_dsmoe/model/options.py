"""The model YAML's ``dsmoe:`` section: which keys it may have and what they may say.

The keys of single blocks are declared in their classes, see `ultra_dsmoe.nn.contract`; those of the net are here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ultra_dsmoe import checks
from ultra_dsmoe.checks import is_whole
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import registry
from ultra_dsmoe.nn.contract import DETECT, NET_OPTIONS, Option
from ultra_dsmoe.ops.gray import check_gamma

LOSSES, CLASS_LOSSES = ("dsmoe", "host"), ("qfl", "bce")
QFL = {"alpha": 1, "beta": 5}  # the quality focal loss's parameters and how large they may be
_PLACE = re.compile(r"\d+\.\w+")  # a part of a row, "22.csp"


def check_options(section: Any, rows: Iterable[str] = ()) -> dict[str, Any]:
    """Return a detector's section, with an absent one as an empty mapping.

    Args:
        section: Of the model YAML.
        rows: Names of the layers in its rows, see `layer_names`.

    Raises:
        ConfigError: If it is no mapping, or has a key or value that it cannot have.
    """
    return section_of(section, _CHECKS, registry.options(DETECT, rows))


def section_of(
    section: Any, of_net: Mapping[str, Callable[[Any], Any]], of_blocks: Mapping[str, Option]
) -> dict[str, Any]:
    """Return a section whose keys are those of a kind of net, and of blocks.

    Args:
        section: Of the model YAML; an absent one is an empty mapping.
        of_net: The net's own keys, each with what raises a `ConfigError` for a wrong value.
        of_blocks: Those of its blocks, and of others that such nets have: where a study takes a block out, its keys
            stay.

    Raises:
        ConfigError: If it is no mapping, or has a key or value that it cannot have.
    """
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise ConfigError("dsmoe: section of the model YAML", "a mapping", section)
    checks.known("dsmoe: section of the model YAML", section, sorted({*of_net, *of_blocks}))
    for key, value in section.items():
        if key in of_net:
            of_net[key](value)
        else:
            of_blocks[key].checked(f"dsmoe.{key}", key, section)
    return section


def layer_names(cfg: Mapping[str, Any]) -> list[str]:
    """Return the names of the layers in the rows of a model YAML that `check_rows` accepts."""
    return [str(row[2]) for row in [*cfg.get("backbone", ()), *cfg.get("head", ())]]


def check_rows(cfg: dict[str, Any]) -> list[Any]:
    """Return the rows of a model YAML, ``backbone`` and ``head`` in one list.

    Raises:
        ConfigError: If a part is no list, there is no row, or one has not four fields.
    """
    for part in ("backbone", "head"):
        if not isinstance(cfg.get(part), (list, tuple)):
            raise ConfigError(f"'{part}' of the model YAML", "a list of rows", cfg.get(part))
    if not cfg["backbone"]:
        raise ConfigError("'backbone' of the model YAML", "at least one row", cfg["backbone"])
    rows = [*cfg["backbone"], *cfg["head"]]
    for i, row in enumerate(rows):
        if not (isinstance(row, (list, tuple)) and len(row) == 4 and isinstance(row[3], (list, tuple))):
            raise ConfigError(f"model YAML row {i}", "[from, repeats, layer, [arguments]]", row)
    return rows


def _gains(gains: Any) -> None:
    """Check the gains given in place of the blocks' own.

    Raises:
        ConfigError: If a name is unknown or a value is not a number >= 0.
    """
    if not isinstance(gains, (dict, type(None))):
        raise ConfigError("dsmoe.gains", "a mapping of gains", gains)
    checks.known("dsmoe.gains", gains or (), registry.aux_names(), "names")
    for name, value in (gains or {}).items():
        checks.number(f"dsmoe.gains.{name}", value, 0)


def transfer_map(value: Any) -> None:
    """Check where the rows of a stock net stand here: one map, or one for each family of nets.

    Raises:
        ConfigError: If it is none.
    """
    families = isinstance(value, dict) and value and all(isinstance(m, dict) for m in value.values())
    for moves in value.values() if families else [value]:
        good = isinstance(moves, dict) and all(is_whole(r, 0) for r in moves)
        if not (good and all(is_whole(r, 0) or (isinstance(r, str) and _PLACE.fullmatch(r)) for r in moves.values())):
            raise ConfigError("dsmoe.transfer", "a mapping of row numbers, stock row to row here", value)


def _qfl(value: Any) -> None:
    if not isinstance(value, dict):
        raise ConfigError("dsmoe.qfl", "a mapping with alpha and beta", value)
    checks.known("dsmoe.qfl", value, QFL, "names")
    for name, number in value.items():
        checks.number(f"dsmoe.qfl.{name}", number, 0, QFL[name])


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "loss": lambda value: checks.one_of("dsmoe.loss", value, LOSSES),
    "cls_loss": lambda value: checks.one_of("dsmoe.cls_loss", value, CLASS_LOSSES),
    "qfl": _qfl,
    "gains": _gains,
    "gamma": lambda value: check_gamma("dsmoe.gamma", value),
    "transfer": transfer_map,
}
assert set(_CHECKS) == set(NET_OPTIONS)
