"""Arguments of the host's training that a study file gives, for all models or for one."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.evaluate.evaluation import quiet
from ultra_dsmoe.plugin.keys import KEYS
from ultra_dsmoe.text import make_encoder

from .checks import known

# Arguments of the host that the study itself gives.
OURS = ("task", "mode", "model", "data", "epochs", "imgsz", "batch", "seed", "project", "name", "save_dir", "exist_ok",
        "resume", "cfg", "val")  # fmt: skip
WEIGHTS = ("pretrained", "distill_model")
FILES = (*WEIGHTS, "dsmoe_prompts", "dsmoe_kd")  # arguments of the host that may be files of the user's


def read_overrides(value: Any, where: str) -> dict[str, Any]:
    """Check arguments of the host: known, of the right type, and none that the study gives itself.

    Raises:
        ConfigError: If one is not, or names a file that is not there.
    """
    import ultralytics.cfg as host

    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(where, "a mapping of Ultralytics' train arguments", value)
    if mine := [k for k in value if k in OURS]:
        raise ConfigError(f"{where}: {mine[0]}", "arguments that the study does not give itself", mine[0])
    known(value, [k for k in (*host.DEFAULT_CFG_DICT, *KEYS) if k not in OURS], where)
    try:
        with quiet():
            host.get_cfg(overrides={k: os.path.expandvars(v) if isinstance(v, str) else v for k, v in value.items()})
    except (TypeError, ValueError, SyntaxError) as e:
        raise ConfigError(where, "values that Ultralytics accepts", " ".join(str(e).split())) from e
    if value.get("dsmoe_text"):
        make_encoder(value["dsmoe_text"])  # loads nothing, but knows whether the model is there
    for key in FILES:
        given = value.get(key)
        if isinstance(given, str) and (key in WEIGHTS or given.endswith((".yaml", ".yml"))):
            _require_file(given, f"{where}: {key}")
    return value


def _require_file(given: str, where: str) -> None:
    """Refuse a file that is not there and that the host cannot get, and variables that are not set."""
    path = expanded(given, where)
    if not is_at_hand(path):
        raise ConfigError(where, "an existing file, or the bare name of weights that Ultralytics can get", path)


def expanded(given: str, where: str) -> str:
    """Return a path with the environment's variables in place.

    Raises:
        ConfigError: If one is not set.
    """
    path = os.path.expandvars(given)
    if unset := re.search(r"\$\{?(\w+)", path):
        raise ConfigError(where, f"the environment variable {unset[1]} to be set", given)
    return path


def is_at_hand(path: str) -> bool:
    """Whether a file is there or the host can get it."""
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    return Path(path).is_file() or path in GITHUB_ASSETS_NAMES
