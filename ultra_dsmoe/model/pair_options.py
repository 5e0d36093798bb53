"""The ``dsmoe:`` section of a classifier's model YAML: how text teaches it, and in which order.

The keys of single blocks are declared in their classes; those of the whole net and of its training are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.model.options import section_of, transfer_map
from ultra_dsmoe.nn import registry
from ultra_dsmoe.nn.contract import CLASSIFY

TEXT_MODES = ("train", "always")
PFA = ("progressive", "descending", "random", "direct", "none")
PASSES = ("joint", "sequential")
CONTROLS = ("none", "shuffled", "constant", "zero")
STRIDES = (0.2, 0.4, 0.6, 0.8, 1.0)  # [PFA] the best of its three
PHASES = (30, 75, 60)  # [PFA] epochs of warm-up, alignment (five stages of 15) and fusion


class PairOptions(NamedTuple):
    """What a classifier's YAML says, with defaults in place.

    Attributes:
        text_mode: ``train``: texts teach and the shipped net sees the picture alone; ``always``: it wants them too.
        pfa: Which images alignment begins with: those least like their texts (``progressive``), those most like them,
            any, or all at once (``direct``); ``none`` leaves alignment out and warms up for as long.
        strides: Shares of the images that the stages of alignment train on, ending with 1.
        rerank: Whether each stage orders the images that are left anew.
        passes: Whether an epoch of alignment goes through the images once with both texts, Eq. 5, or once for each.
        ce: Weight of the classification loss during alignment; 0 is the paper's.
        phases: Shares of the epochs for warm-up, alignment and fusion.
        pace: Pace of the image encoder in alignment and in fusion, relative to the warm-up's; 0 freezes it.
        numbers: Whether the record's numbers go into the net as numbers, beside the sentence about them.
        control: What stands in for the true texts: ``shuffled`` among images, one ``constant`` text, ``zero``.
        transfer: Where the rows of a stock net stand here.
    """

    text_mode: str = "train"
    pfa: str = "progressive"
    strides: tuple[float, ...] = STRIDES
    rerank: bool = False
    passes: str = "joint"
    ce: float = 0.0
    phases: tuple[float, ...] = PHASES
    pace: tuple[float, ...] = (1.0, 0.1)
    numbers: bool = False
    control: str = "none"
    transfer: dict[Any, Any] | None = None

    @classmethod
    def read(cls, section: Any, rows: Iterable[str] = ()) -> PairOptions:
        """Read the section of a model YAML.

        Args:
            section: The section.
            rows: Names of the layers in its rows, see `ultra_dsmoe.model.options.layer_names`.

        Raises:
            ConfigError: If it has a key or value that it cannot have.
        """
        section = check_pair_options(section, rows)
        given = {key: section[key] for key in cls._fields if key in section}
        for key in ("strides", "phases", "pace"):
            if key in given:
                given[key] = tuple(map(float, given[key]))
        return cls(**given)


def check_pair_options(section: Any, rows: Iterable[str] = ()) -> dict[str, Any]:
    """Return the section, with an absent one as an empty mapping; arguments as of `PairOptions.read`.

    Raises:
        ConfigError: If it is no mapping, or has a key or value that it cannot have.
    """
    section = section_of(section, _CHECKS, registry.options(CLASSIFY, rows))
    fusion = section.get("fusion")
    if section.get("text_mode", TEXT_MODES[0]) == TEXT_MODES[0] and fusion not in (None, "none"):
        expected = "none beside text_mode: train, whose net sees pictures alone (text_mode: always fuses)"
        raise ConfigError("dsmoe.fusion", expected, fusion)
    return section


def _numbers(argument: str, value: Any, count: int | None) -> list[float]:
    """Check a list of numbers of at least 0."""
    good = isinstance(value, (list, tuple)) and value and all(checks.is_number(v, 0) for v in value)
    if not good or (count is not None and len(value) != count):
        raise ConfigError(argument, f"a list of {count or 'one or more'} numbers of at least 0", value)
    return list(value)


def _strides(value: Any) -> None:
    shares = _numbers("dsmoe.strides", value, None)
    if shares[0] <= 0 or shares != sorted(set(shares)) or shares[-1] != 1:
        raise ConfigError("dsmoe.strides", "rising shares above 0 that end with 1", value)


def _phases(value: Any) -> None:
    if _numbers("dsmoe.phases", value, 3)[2] == 0:
        raise ConfigError("dsmoe.phases", "shares of warm-up, alignment and fusion, the last above 0", value)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "text_mode": lambda value: checks.one_of("dsmoe.text_mode", value, TEXT_MODES),
    "pfa": lambda value: checks.one_of("dsmoe.pfa", value, PFA),
    "strides": _strides,
    "rerank": lambda value: checks.flag("dsmoe.rerank", value),
    "passes": lambda value: checks.one_of("dsmoe.passes", value, PASSES),
    "ce": lambda value: checks.number("dsmoe.ce", value, 0),
    "phases": _phases,
    "pace": lambda value: _numbers("dsmoe.pace", value, 2),
    "numbers": lambda value: checks.flag("dsmoe.numbers", value),
    "control": lambda value: checks.one_of("dsmoe.control", value, CONTROLS),
    "transfer": transfer_map,
}
assert set(_CHECKS) == set(PairOptions._fields)
