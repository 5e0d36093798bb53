"""How much a training changes pairs: by how much a reference moves, how exposures and noise differ, how many go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError

JITTER = ("px", "degrees")
KEYS = ("jitter", "exposure", "noise", "drop")  # of the mapping ``reference:``
MOST = {"px": 100.0, "degrees": 45.0, "exposure": 0.9, "noise": 100.0, "drop": 1.0}


@dataclass(frozen=True)
class Strengths:
    """Bounds of what is drawn anew for each pair of a training; 0 switches one off. All of them are our choice.

    Attributes:
        px: How far the reference alone is shifted in each direction, in pixels of a picture of 640 pixels: the same way
            on the product at any size of the training.
        degrees: How far it alone is turned.
        exposure: Relative change of contrast and of brightness, drawn apart for image and reference.
        noise: Standard deviation of sensor noise, in steps of 0..255; other noise for image and reference.
        drop: Share of the references that are left out, so that the net can do without one.
    """

    px: float = 2.0
    degrees: float = 0.2
    exposure: float = 0.1
    noise: float = 2.0
    drop: float = 0.1

    def state(self) -> dict[str, Any]:
        """Return them as plain values that `read_strengths` takes."""
        values = asdict(self)
        return {"jitter": {name: values.pop(name) for name in JITTER}, **values}


def read_strengths(argument: str, given: Mapping[Any, Any], base: Strengths | None = None) -> Strengths:
    """Return the strengths that a mapping names.

    Args:
        argument: Name of the mapping, for errors.
        given: It; what else is in it is not looked at.
        base: What holds where it names none.

    Raises:
        ConfigError: If one has a value that it cannot have.
    """
    values = asdict(base or Strengths())
    if "jitter" in given:
        values.update(_jitter(f"{argument}.jitter", given["jitter"]))
    for name in KEYS[1:]:
        if name in given:
            values[name] = _strength(f"{argument}.{name}", given[name], name)
    return Strengths(**values)


def _jitter(argument: str, value: Any) -> dict[str, float]:
    """Return shift and turn of a mapping, or of one word that switches both off."""
    if value is False or (not isinstance(value, bool) and value == 0):
        return dict.fromkeys(JITTER, 0.0)
    if not isinstance(value, Mapping):
        raise ConfigError(argument, "{px: ..., degrees: ...}, or 0 for none", value)
    checks.known(argument, value, JITTER)
    return {name: _strength(f"{argument}.{name}", value[name], name) for name in value}


def _strength(argument: str, value: Any, name: str) -> float:
    return 0.0 if value is False else checks.number(argument, value, 0, MOST[name])
