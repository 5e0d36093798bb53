"""What ``dsmoe_kd=`` may say: a preset's name, a YAML file, or a mapping; checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ultra_dsmoe import checks
from ultra_dsmoe.distill.adaptive import RULES
from ultra_dsmoe.distill.method import DETECTION, HOST, METHODS, trait
from ultra_dsmoe.errors import ConfigError, did_you_mean

TEMPERATURE = 20.0  # [TS] Eq. 10


@dataclass(frozen=True)
class KDConfig:
    """Settings of our distiller; every one may stand in a ``dsmoe_kd`` YAML under its name.

    Attributes:
        method: ``attention`` ([TS] Eq. 11-13), ``mimic`` (Eq. 5), ``self``, ``self-plain`` or another out of `METHODS`.
        levels: Strides of the levels to distil; None takes all that both nets have.
        temperature: T of Eq. 10; of ``attention`` alone.
        adaptive: Rule of the adaptive weights: ``ema``, ``paper`` or ``none``; unless given, the method's usual one.
        gains: Factor of each term, those given in place of the usual ones. Distillation: of the raw terms; detection:
            of the host's terms with the host's own gains (2 QFL and 1 CIoU, as printed, are cls 4 and box 0.133 at the
            host's default gains of 0.5 and 7.5), 1 unless given.
        normalize: Whether maps, and attentions, are compared in units of their standard deviation (the larger of the
            two) and L_fg is divided by the number of boxes and the background, so that T and a gain mean the same for
            every teacher and data set: the terms of a trained teacher stay within about 0 to 4. False as printed.
        compare: Whether the teacher is validated before training, beside a student that has weights.
        warmup: Epochs over which distillation grows linearly to its strength; unless given, the method's usual ones.
        own: Values of the options that the method alone has.
    """

    method: str = "attention"
    levels: tuple[int, ...] | None = None
    temperature: float = TEMPERATURE
    adaptive: str = "ema"
    gains: Mapping[str, float] = field(default_factory=dict)
    normalize: bool = True
    compare: bool = True
    warmup: float = 0.0
    own: Mapping[str, Any] = field(default_factory=dict)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the distillation terms."""
        return tuple(METHODS[self.method].gains)

    @property
    def same_levels(self) -> bool:
        """Whether the teacher must have the student's strides."""
        return bool(trait(self.method, "same_levels"))

    def gain(self, name: str) -> float:
        """Return the gain of a term."""
        return float({**_usual_gains(self.method), **self.gains}[name])

    def require_active(self, idle: Sequence[str] = ()) -> None:
        """Refuse gains of which none distils.

        Args:
            idle: Terms that stay 0 for the nets at hand.

        Raises:
            ConfigError: If all other terms have the gain 0.
        """
        active = [name for name in self.terms if name not in idle]
        if not any(self.gain(name) for name in active):
            beside = f" ({', '.join(idle)} stays 0 for these nets)" if idle else ""
            expected = f"a gain above 0 for {' or '.join(active)}{beside}, or no distill_model="
            raise ConfigError("dsmoe_kd gains", expected, "0, with which nothing is distilled")

    def state(self) -> dict[str, Any]:
        """Return the settings as plain values, for a checkpoint; `restore` reads them back."""
        plain = {**vars(self), "gains": dict(self.gains), **self.own}
        for name in ("own", *trait(self.method, "unused")):
            del plain[name]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}


def resolve(value: Any) -> KDConfig | None:
    """Return the settings that ``dsmoe_kd=value`` stands for; None for ``host``.

    Args:
        value: Preset, path of a YAML file, or mapping.

    Raises:
        ConfigError: If it is neither, an option is unknown or has a value that it cannot have, or nothing is distilled.
    """
    value = check_form(value)
    if value == HOST:
        return None
    config = parse(value if isinstance(value, dict) else {"method": value} if value in METHODS else _read(value))
    config.require_active()
    return config


def restore(state: Mapping[str, Any]) -> KDConfig:
    """Return the settings of a checkpoint, without what earlier releases kept of options that are not the method's.

    Args:
        state: What `KDConfig.state` gave.
    """
    unused = trait(str(state["method"]), "unused")
    return parse({key: value for key, value in state.items() if key not in unused})


def check_form(value: Any) -> Any:
    """Return ``value`` as text or dictionary if it could be a ``dsmoe_kd``, without looking into files.

    Raises:
        ConfigError: If it is no preset, no name of a YAML file and no mapping.
    """
    if isinstance(value, Mapping):
        return dict(value)
    presets = (*METHODS, HOST)
    if not isinstance(value, (str, Path)) or not (str(value) in presets or str(value).endswith((".yaml", ".yml"))):
        hint = did_you_mean(value, presets) if isinstance(value, str) else ""
        raise ConfigError("dsmoe_kd", f"{', '.join(presets)} or a YAML file{hint}", value)
    return str(value)


def parse(options: Mapping[str, Any]) -> KDConfig:
    """Return the settings of a mapping of options.

    Raises:
        ConfigError: If an option is unknown or has a value that it cannot have.
    """
    name = _CHECKS["method"](options.get("method", next(iter(METHODS))))
    method = METHODS[name]
    known = (*(key for key in _CHECKS if key not in trait(name, "unused")), *method.options)
    checks.known("dsmoe_kd", options, known, "options")
    checked: dict[str, Any] = {key: _CHECKS[key](value) for key, value in options.items() if key in _CHECKS}
    own = {key: option.checked(f"dsmoe_kd {key}", key, options) for key, option in method.options.items()}
    usual = {"method": name, "adaptive": method.adaptive, "warmup": trait(name, "warmup"), "own": own}
    config = KDConfig(**{**usual, **checked})
    checks.known("dsmoe_kd gains", config.gains, _usual_gains(name), "names")
    return config


def _usual_gains(method: str) -> dict[str, float]:
    return {**METHODS[method].gains, **dict.fromkeys(DETECTION, 1.0)}


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


def _levels(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    numbers = isinstance(value, (list, tuple)) and all(checks.is_whole(v, 1) for v in value)
    if not numbers or not value:
        raise ConfigError("dsmoe_kd levels", "a list of strides, such as [8, 16, 32]", value)
    return tuple(value)


def _gains(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise ConfigError("dsmoe_kd gains", "a mapping of gains", value)
    return {str(name): checks.number(f"dsmoe_kd gains.{name}", gain, 0) for name, gain in value.items()}


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "method": lambda value: checks.one_of("dsmoe_kd method", value, METHODS),
    "levels": _levels,
    "temperature": lambda value: checks.positive("dsmoe_kd temperature", value),
    "adaptive": lambda value: checks.one_of("dsmoe_kd adaptive", value, RULES),
    "gains": _gains,
    "normalize": lambda value: checks.flag("dsmoe_kd normalize", value),
    "compare": lambda value: checks.flag("dsmoe_kd compare", value),
    "warmup": lambda value: checks.number("dsmoe_kd warmup", value, 0),
}
