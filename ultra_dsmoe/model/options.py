"""The model YAML's ``dsmoe:`` section: which keys it may have and what they may say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from ultra_dsmoe.errors import ConfigError, did_you_mean
from ultra_dsmoe.nn.attention.kinds import check_attention
from ultra_dsmoe.nn.neck.text_semantics import ATTENDED, POOLED
from ultra_dsmoe.ops.gray import check_gamma

# Gains of the auxiliary terms, [DSMoE] Eq. 31 as read in the spec; the section's `gains` overrides them.
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
        if not _is_number(value) or value < 0:
            raise ConfigError(f"dsmoe.gains.{name}", "a number >= 0", value)
    return {**GAINS, **(gains or {})}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _one_of(key: str, options: tuple[str, ...]) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if value not in options:
            raise ConfigError(f"dsmoe.{key}", " or ".join(options), value)

    return check


def _switch(key: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if not isinstance(value, bool):
            raise ConfigError(f"dsmoe.{key}", "true or false", value)

    return check


def _transfer(value: Any) -> None:
    families = isinstance(value, dict) and value and all(isinstance(m, dict) for m in value.values())
    for moves in value.values() if families else [value]:
        good = isinstance(moves, dict) and all(_is_row(r) for r in moves)
        if not (good and all(_is_row(r) or (isinstance(r, str) and _PLACE.fullmatch(r)) for r in moves.values())):
            raise ConfigError("dsmoe.transfer", "a mapping of row numbers, stock row to row here", value)


def _is_row(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _qfl(value: Any) -> None:
    if not isinstance(value, dict):
        raise ConfigError("dsmoe.qfl", "a mapping with alpha and beta", value)
    for name, number in value.items():
        if name not in QFL:
            raise ConfigError("dsmoe.qfl", f"names out of {', '.join(QFL)}{did_you_mean(name, QFL)}", str(name))
        if not _is_number(number) or not 0 <= number <= QFL[name]:
            raise ConfigError(f"dsmoe.qfl.{name}", f"a number from 0 to {QFL[name]}", number)


def _gamma(value: Any) -> None:
    check_gamma("dsmoe.gamma", value)


def _by_block(value: Any) -> None:
    """Leave the check to the block."""


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "experts": _by_block,
    "topk": _by_block,
    "text": _switch("text"),
    "descriptions": _one_of("descriptions", (POOLED, ATTENDED)),
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
