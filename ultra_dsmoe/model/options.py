"""The model YAML's ``dsmoe:`` section: which keys it may have and what they may say."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ultra_dsmoe.checks import flag, is_number, is_whole, one_of
from ultra_dsmoe.errors import ConfigError, did_you_mean
from ultra_dsmoe.nn.attention.kinds import check_attention
from ultra_dsmoe.ops.gray import check_gamma

# Gains of the auxiliary terms, [DSMoE] Eq. 31, their sizes our choice; the section's `gains` overrides them.
GAINS = {"align": 0.5, "bal": 0.01, "hier": 0.05, "ga": 0.05, "ort": 0.01}
LOSSES, CLASS_LOSSES = ("dsmoe", "host"), ("qfl", "bce")
QFL = {"alpha": 1, "beta": 5}  # the quality focal loss's parameters and how large they may be
_PLACE = re.compile(r"\d+\.\w+")  # a part of a row, "22.csp"


def check_options(section: Any) -> dict[str, Any]:
    """Return the section, with an absent one as an empty mapping.

    ``experts`` and ``topk`` are checked by the blocks that use them.

    Raises:
        ConfigError: If it is no mapping, or has a key or value that it cannot have.
    """
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise ConfigError("dsmoe: section of the model YAML", "a mapping", section)
    for key, value in section.items():
        if key not in _CHECKS:
            expected = f"keys out of {', '.join(sorted(_CHECKS))}{did_you_mean(key, _CHECKS)}"
            raise ConfigError("dsmoe: section of the model YAML", expected, str(key))
        _CHECKS[key](value)
    return section


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


def merged_gains(gains: Any) -> dict[str, float]:
    """Return the gains of all auxiliary terms, those given in place of the usual ones.

    Raises:
        ConfigError: If a name is unknown or a value is not a number >= 0.
    """
    if not isinstance(gains, (dict, type(None))):
        raise ConfigError("dsmoe.gains", "a mapping of gains", gains)
    for name, value in (gains or {}).items():
        if name not in GAINS:
            raise ConfigError("dsmoe.gains", f"names out of {', '.join(GAINS)}{did_you_mean(name, GAINS)}", str(name))
        if not is_number(value, 0):
            raise ConfigError(f"dsmoe.gains.{name}", "a number >= 0", value)
    return {**GAINS, **(gains or {})}


def _one_of(key: str, options: tuple[str, ...]) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        one_of(f"dsmoe.{key}", value, options)

    return check


def _switch(key: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        flag(f"dsmoe.{key}", value)

    return check


def _transfer(value: Any) -> None:
    families = isinstance(value, dict) and value and all(isinstance(m, dict) for m in value.values())
    for moves in value.values() if families else [value]:
        good = isinstance(moves, dict) and all(is_whole(r, 0) for r in moves)
        if not (good and all(is_whole(r, 0) or (isinstance(r, str) and _PLACE.fullmatch(r)) for r in moves.values())):
            raise ConfigError("dsmoe.transfer", "a mapping of row numbers, stock row to row here", value)


def _qfl(value: Any) -> None:
    if not isinstance(value, dict):
        raise ConfigError("dsmoe.qfl", "a mapping with alpha and beta", value)
    for name, number in value.items():
        if name not in QFL:
            raise ConfigError("dsmoe.qfl", f"names out of {', '.join(QFL)}{did_you_mean(name, QFL)}", str(name))
        if not is_number(number, 0, QFL[name]):
            raise ConfigError(f"dsmoe.qfl.{name}", f"a number from 0 to {QFL[name]}", number)


def _gamma(value: Any) -> None:
    check_gamma("dsmoe.gamma", value)


def _by_block(value: Any) -> None:
    """Leave the check to the block."""


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "experts": _by_block,
    "topk": _by_block,
    "text": _switch("text"),
    "hyperbolic": _switch("hyperbolic"),
    "loss": _one_of("loss", LOSSES),
    "cls_loss": _one_of("cls_loss", CLASS_LOSSES),
    "qfl": _qfl,
    "attention": lambda value: check_attention(value, "dsmoe"),
    "detector": _by_block,
    "residual_path": _switch("residual_path"),
    "neck_down": _switch("neck_down"),
    "gains": merged_gains,
    "gamma": _gamma,
    "transfer": _transfer,
}
