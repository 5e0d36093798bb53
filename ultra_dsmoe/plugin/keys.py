"""Our keys on the command line and in Python calls: their names, their checks, their place in the host's defaults."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ultra_dsmoe import checks
from ultra_dsmoe.constants import MODES, SPLITS
from ultra_dsmoe.errors import ConfigError, TextError, did_you_mean
from ultra_dsmoe.plugin import entry, host
from ultra_dsmoe.plugin.task_table import TASKS, Task

PREFIX = "dsmoe_"
EXPORT_ONLY = ("dsmoe_parity",)
TRAIN_ONLY = ("dsmoe_kd", "dsmoe_provider")
VERIFYING = ("dsmoe_verify", "dsmoe_verify_band", "dsmoe_verify_min")  # of a second stage behind a detector
FOR_ANY_DETECTOR = ("dsmoe_kd", "dsmoe_reference", *VERIFYING)  # also of stock layers
NOT_FOR_TRAINING = ("dsmoe_keep", "dsmoe_dynamic_conv", *EXPORT_ONLY)
NONE_MEANS_NO = ("dsmoe_reference",)  # the host reads the word none on a command line as None


def _topk(value: Any) -> int:
    """Check ``dsmoe_topk``; its upper bound is the model's number of experts, which the model checks."""
    return checks.whole("dsmoe_topk", value, expected="an integer from 1 to the model's number of experts")


def _moe(value: Any) -> str:
    """Check ``dsmoe_moe``."""
    return checks.one_of("dsmoe_moe", value, MODES)


def _keep(value: Any) -> int:
    """Check ``dsmoe_keep``; the model checks that it lies between k and the number of experts."""
    expected = "an integer from the experts per image to the model's number of experts"
    return checks.whole("dsmoe_keep", value, expected=expected)


def _dynamic_conv(value: Any) -> bool:
    """Check ``dsmoe_dynamic_conv``."""
    return checks.flag("dsmoe_dynamic_conv", value)


def _parity(value: Any) -> bool | str:
    """Check ``dsmoe_parity``: True, False, or the split whose mAP is compared too."""
    if not isinstance(value, bool) and value not in SPLITS:
        hint = did_you_mean(value, SPLITS) if isinstance(value, str) else ""
        raise ConfigError("dsmoe_parity", f"True, False or a split ({', '.join(SPLITS)}){hint}", value)
    return value


def _prompts(value: Any) -> str:
    """Check ``dsmoe_prompts``: the name of a YAML file; `ultra_dsmoe.text.prompts.read_prompt_file` looks inside."""
    if not isinstance(value, (str, Path)) or not str(value).endswith((".yaml", ".yml")):
        raise ConfigError("dsmoe_prompts", "a YAML file {class: [prompts]}", value)
    return str(value)


def _text(value: Any) -> str:
    """Check ``dsmoe_text``; the encoders check the rest of the name.

    Hosts before 8.4.60 evaluate what the command line says: of ``hash`` they make Python's function of that name.
    """
    if not isinstance(value, (str, Path)):
        from ultra_dsmoe.text.encoders import KINDS

        name = getattr(value, "__name__", None)
        value = name if name in KINDS else value
    if not isinstance(value, (str, Path)) or not str(value).strip():
        expected = "auto, hash, sentence:<id or folder>, causal-lm:<id or folder>, random or zero"
        raise ConfigError("dsmoe_text", expected, value)
    return str(value)


def _kd(value: Any) -> Any:
    """Check ``dsmoe_kd``: preset, name of a YAML file or mapping; `resolve` looks inside."""
    from ultra_dsmoe.distill.config import check_form

    return check_form(value)


def _gamma(value: Any) -> float:
    """Check ``dsmoe_gamma``."""
    from ultra_dsmoe.ops.gray import check_gamma

    return check_gamma("dsmoe_gamma", value)


def _provider(value: Any) -> str:
    """Check ``dsmoe_provider``: who says what the images' sidecars lack."""
    if not isinstance(value, (str, Path)):
        raise ConfigError("dsmoe_provider", "the name of a provider of texts, such as rules", value)
    from ultra_dsmoe.text.providers import make_provider

    try:
        make_provider(str(value))  # which loads no model
    except TextError as e:
        raise TextError("dsmoe_provider", e.expected, e.got) from e
    return str(value)


def _verify(value: Any) -> str:
    """Check ``dsmoe_verify``: the name of a classifier; `ultra_dsmoe.evaluate.box_classifier` opens it."""
    if not isinstance(value, (str, Path)) or not str(value).strip():
        raise ConfigError("dsmoe_verify", "a classifier, such as cls.pt", value)
    return str(value)


def _verify_band(value: Any) -> tuple[float, float]:
    """Check ``dsmoe_verify_band``: two scores, in Python also as a list, or as text as on the command line."""
    try:
        scores = [float(part) for part in value.split(",")] if isinstance(value, str) else list(value)
    except (TypeError, ValueError):  # no number, or no list
        scores = []
    if len(scores) != 2 or not all(checks.is_number(score, 0, 1) for score in scores) or scores[0] >= scores[1]:
        raise ConfigError("dsmoe_verify_band", "two scores from 0 to 1, the lower one first, as in 0.1,0.5", value)
    return float(scores[0]), float(scores[1])


def _verify_min(value: Any) -> float:
    """Check ``dsmoe_verify_min``."""
    return checks.number("dsmoe_verify_min", value, 0, 1)


def _reference(value: Any) -> Any:
    """Check ``dsmoe_reference``: a place of known-good pictures, False for none; in Python also arrays, or a list."""
    from ultra_dsmoe.data.reference.choice import KEY
    from ultra_dsmoe.data.reference.spec import plain

    if isinstance(value, (list, tuple)):  # one for each picture of a prediction
        return [plain(KEY, one, Path.cwd()) for one in value]
    return plain(KEY, value, Path.cwd())


KEYS: dict[str, Callable[[Any], Any]] = {
    "dsmoe_topk": _topk,
    "dsmoe_moe": _moe,
    "dsmoe_keep": _keep,
    "dsmoe_dynamic_conv": _dynamic_conv,
    "dsmoe_parity": _parity,
    "dsmoe_prompts": _prompts,
    "dsmoe_text": _text,
    "dsmoe_kd": _kd,
    "dsmoe_gamma": _gamma,
    "dsmoe_provider": _provider,
    "dsmoe_verify": _verify,
    "dsmoe_verify_band": _verify_band,
    "dsmoe_verify_min": _verify_min,
    "dsmoe_reference": _reference,
}


def check(values: dict[str, Any]) -> None:
    """Check all keys of ours among ``values`` and write them back in their final form; those without a value go.

    Raises:
        ConfigError: If one has a value it cannot have, or starts like a key of ours and is none.
    """
    for key in [k for k in values if isinstance(k, str) and k.startswith(PREFIX)]:
        if key not in KEYS:
            raise unknown(key)
        if values[key] is None and key not in NONE_MEANS_NO:  # as files of earlier releases have it
            del values[key]
        else:
            values[key] = KEYS[key](values[key])


def unknown(key: str) -> ConfigError:
    """Return the error for a key that starts like ours and is none."""
    name = key.partition("=")[0]
    if name in KEYS:
        return ConfigError(name, "a value, as in 'key=value'", "none")
    return ConfigError(name, f"one of {', '.join(KEYS)}{did_you_mean(name, KEYS)}", "an unknown key")


def pop_keys(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take our keys that have a value out of the arguments of a call, checked; those without a value go too."""
    check(kwargs)
    return {key: kwargs.pop(key) for key in KEYS if key in kwargs}


def check_verb(verb: str, given: dict[str, Any]) -> None:
    """Check that a verb can use the keys given to it.

    Raises:
        ConfigError: If one has no meaning there.
    """
    for key in given:
        if key in EXPORT_ONLY and verb != "export":
            raise ConfigError(key, "this key with export only", f"{verb} {key}={given[key]}")
        if key in TRAIN_ONLY and verb != "train":
            raise ConfigError(key, "this key with train only", f"{verb} {key}={given[key]}")
        if key in VERIFYING and verb not in ("val", "predict"):
            raise ConfigError(key, "this key with val or predict only", f"{verb} {key}={given[key]}")
        if key in VERIFYING and "dsmoe_verify" not in given:
            raise ConfigError(key, "this key beside dsmoe_verify, the classifier", f"{key}={given[key]} alone")
        if verb not in ("predict", "track") and key == "dsmoe_reference":
            from ultra_dsmoe.data.reference.choice import require_no_list

            require_no_list(given[key], verb)
        if verb == "train" and key == "dsmoe_reference" and not isinstance(given[key], (bool, str, Mapping)):
            raise ConfigError(key, "a folder, a CSV, a pattern or a picture's file in a training", "an array")
        if verb == "train" and key in NOT_FOR_TRAINING:
            raise ConfigError(key, "this key with val, predict, export or benchmark", f"train {key}={given[key]}")
    if verb == "train" and given.get("dsmoe_moe") == "static":
        raise ConfigError("dsmoe_moe", "gather or dense in a training, whose routing is not settled yet", "static")


def check_task(task: Task, given: dict[str, Any]) -> None:
    """Check that a network can use the keys given to it.

    Args:
        task: Of the network.
        given: Checked keys.

    Raises:
        ConfigError: If one is for networks of another task.
    """
    others = {key for other in TASKS.values() for key in other.keys or ()}
    detecting = {"dsmoe_text", "dsmoe_parity"}
    known = set(task.keys) if task.keys is not None else set(KEYS) - others | detecting
    for key in given:
        if key not in known:
            raise ConfigError(key, f"a key of {task.what} ({', '.join(sorted(known))})", f"{key}={given[key]}")


def patch_cfg(cfg: Any) -> None:
    """Let the host's arguments know our keys, and check their values where the host checks its own.

    They are not among its defaults: a set of arguments has those that were given.
    """
    for key in KEYS:
        host.add_default(type(cfg.DEFAULT_CFG), key)
    stock_check, stock_align = cfg.check_cfg, cfg.check_dict_alignment
    if host.is_marked(stock_check):
        return

    @functools.wraps(stock_check)
    def check_cfg(cfg: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        check(cfg)
        return stock_check(cfg, *args, **kwargs)

    @functools.wraps(stock_align)
    def check_dict_alignment(base: dict[str, Any], custom: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        for key in custom:
            if isinstance(key, str) and key.startswith(PREFIX) and (key not in KEYS or custom[key] == ""):
                raise unknown(key)
        return stock_align({**dict.fromkeys(KEYS), **base}, custom, *args, **kwargs)

    host.replace(cfg, "check_cfg", host.mark(check_cfg), everywhere=True)
    host.replace(cfg, "check_dict_alignment", host.mark(check_dict_alignment), everywhere=True)
    entry.patch_entrypoint(cfg)
