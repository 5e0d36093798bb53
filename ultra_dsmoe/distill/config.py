"""What ``dsmoe_kd=`` may say: a preset's name, a YAML file, or a mapping; checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from ultra_dsmoe.checks import is_number, is_whole
from ultra_dsmoe.distill.adaptive import RULES
from ultra_dsmoe.errors import ConfigError, did_you_mean

METHODS = ("attention", "mimic")
HOST = "host"  # the preset that leaves distillation to the host
PRESETS = (*METHODS, HOST)
TEMPERATURE = 20.0  # [TS] Eq. 10

DETECTION = ("cls", "box")  # terms of the student's own criterion that the adaptive weights move too
# Gains per method, by term. Distillation: of the raw terms; detection: of the host's terms with the host's own gains
# (2 QFL and 1 CIoU, as printed, are cls 4 and box 0.133 at the host's default gains of 0.5 and 7.5). Ours.
# L_fg and L_G at 1 weigh nearly as much as boxes and classes; a quarter did better (docs/results/distillation.md).
GAINS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "attention": MappingProxyType({"fg": 0.25, "att": 1.0, "glob": 0.25, "cls": 1.0, "box": 1.0}),
        "mimic": MappingProxyType({"mimic": 1.0, "cls": 1.0, "box": 1.0}),
    }
)


@dataclass(frozen=True)
class KDConfig:
    """Settings of our distiller; every one may stand in a ``dsmoe_kd`` YAML under its name.

    Attributes:
        method: ``attention`` ([TS] Eq. 11-13) or ``mimic`` (Eq. 5).
        levels: Strides of the levels to distil; None takes all that both nets have.
        temperature: T of Eq. 10; for ``attention``.
        adaptive: Rule of the adaptive weights: ``ema``, ``paper`` or ``none``; ``none`` unless given for ``mimic``.
        gains: Factor of each term, those given in place of the usual ones.
        normalize: Whether maps, and attentions, are compared in units of their standard deviation (the larger of the
            two) and L_fg is divided by the number of boxes and the background, so that T and a gain mean the same for
            every teacher and data set: the terms of a trained teacher stay within about 0 to 4. False as printed.
        compare: Whether the teacher is validated before training, beside a student that has weights.
    """

    method: str = "attention"
    levels: tuple[int, ...] | None = None
    temperature: float = TEMPERATURE
    adaptive: str = "ema"
    gains: Mapping[str, float] = field(default_factory=dict)
    normalize: bool = True
    compare: bool = True

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the distillation terms."""
        return tuple(name for name in GAINS[self.method] if name not in DETECTION)

    def gain(self, name: str) -> float:
        """Return the gain of a term."""
        return float({**GAINS[self.method], **self.gains}[name])

    def state(self) -> dict[str, Any]:
        """Return the settings as plain values, for a checkpoint; `parse` reads them back."""
        plain = {**vars(self), "gains": dict(self.gains)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}


def resolve(value: Any) -> KDConfig | None:
    """Return the settings that ``dsmoe_kd=value`` stands for; None for ``host``.

    Args:
        value: Preset, path of a YAML file, or mapping.

    Raises:
        ConfigError: If it is neither, or an option is unknown or has a value that it cannot have.
    """
    value = check_form(value)
    if isinstance(value, dict):
        return parse(value)
    return parse(_read(value)) if value not in PRESETS else None if value == HOST else parse({"method": value})


def check_form(value: Any) -> Any:
    """Return ``value`` as text or dictionary if it could be a ``dsmoe_kd``, without looking into files.

    Raises:
        ConfigError: If it is no preset, no name of a YAML file and no mapping.
    """
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, (str, Path)) or not (str(value) in PRESETS or str(value).endswith((".yaml", ".yml"))):
        hint = did_you_mean(value, PRESETS) if isinstance(value, str) else ""
        raise ConfigError("dsmoe_kd", f"{', '.join(PRESETS)} or a YAML file{hint}", value)
    return str(value)


def parse(options: Mapping[str, Any]) -> KDConfig:
    """Return the settings of a mapping of options.

    Raises:
        ConfigError: If an option is unknown or has a value that it cannot have.
    """
    for name in options:
        if name not in _CHECKS:
            expected = f"options out of {', '.join(_CHECKS)}{did_you_mean(name, _CHECKS)}"
            raise ConfigError("dsmoe_kd", expected, str(name))
    method = _method(options.get("method", METHODS[0]))
    usual = {"method": method, "adaptive": "ema" if method == "attention" else "none"}
    checked: dict[str, Any] = {name: _CHECKS[name](value) for name, value in options.items()}
    config = KDConfig(**{**usual, **checked})
    for name in config.gains:
        if name not in GAINS[method]:
            expected = f"names out of {', '.join(GAINS[method])}{did_you_mean(name, GAINS[method])}"
            raise ConfigError("dsmoe_kd gains", expected, name)
    return config


def _read(path: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise ConfigError("dsmoe_kd", "an existing YAML file", path) from e
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise ConfigError("dsmoe_kd", "a readable YAML file", f"{path} ({type(e).__name__})") from e
    if not isinstance(content, dict):
        raise ConfigError("dsmoe_kd", f"a mapping of options in {path}", content)
    return content


def _number(name: str, value: Any, *, zero: bool) -> float:
    good = is_number(value)
    if not good or value < 0 or (value == 0 and not zero):
        raise ConfigError(f"dsmoe_kd {name}", f"a number {'>= 0' if zero else '> 0'}", value)
    return float(value)


def _one_of(name: str, options: tuple[str, ...], value: Any) -> str:
    if value not in options:
        raise ConfigError(f"dsmoe_kd {name}", f"{' or '.join(options)}{did_you_mean(value, options)}", value)
    return value


def _method(value: Any) -> str:
    return _one_of("method", METHODS, value)


def _levels(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    numbers = isinstance(value, (list, tuple)) and all(map(is_whole, value))
    if not numbers or not value or min(value) < 1:
        raise ConfigError("dsmoe_kd levels", "a list of strides, such as [8, 16, 32]", value)
    return tuple(value)


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"dsmoe_kd {name}", "true or false", value)
    return value


def _gains(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise ConfigError("dsmoe_kd gains", "a mapping of gains", value)
    return {str(name): _number(f"gains.{name}", gain, zero=True) for name, gain in value.items()}


_CHECKS = {
    "method": _method,
    "levels": _levels,
    "temperature": lambda value: _number("temperature", value, zero=False),
    "adaptive": lambda value: _one_of("adaptive", RULES, value),
    "gains": _gains,
    "normalize": lambda value: _switch("normalize", value),
    "compare": lambda value: _switch("compare", value),
}
