"""What we lean on in the host, how it is changed, and how all changes are taken back.

The list of facts is the whole surface between plugin and host: a symbol that is not here is not replaced.
"""

from __future__ import annotations

import functools
import logging
import sys
from inspect import signature
from typing import Any

# Host module -> symbol -> its leading parameters; None where only its presence matters.
FACTS: dict[str, dict[str, tuple[str, ...] | None]] = {
    "ultralytics.utils.checks": {"check_file": ("file",)},
    "ultralytics.utils.torch_utils": {"LOGGER": None, "strip_optimizer": ("f", "s")},
    "ultralytics.cfg": {
        "DEFAULT_CFG": None,
        "check_cfg": ("cfg",),
        "check_dict_alignment": ("base", "custom"),
        "entrypoint": ("debug",),
    },
    "ultralytics.nn.tasks": {
        "parse_model": ("d", "ch", "verbose"),
        "yaml_model_load": ("path",),
        "guess_model_scale": ("model_path",),
        "guess_model_task": ("model",),
        "torch_safe_load": ("weight", "safe_only"),
        "Index": None,
        "Conv.default_act": None,
        "DetectionModel": ("cfg", "ch", "nc", "verbose"),
        "ClassificationModel": ("cfg", "ch", "nc", "verbose"),
        "LOGGER": None,
    },
    "ultralytics.data.utils": {"check_det_dataset": ("dataset", "autodownload")},
    "ultralytics.data.build": {"YOLODataset": None, "build_yolo_dataset": ("cfg", "img_path", "batch", "data", "mode")},
    "ultralytics.engine.exporter": {"Exporter.get_int8_calibration_dataloader": ("self", "prefix")},
    "ultralytics.models.yolo.model": {
        "YOLO.task_map": None,
        "Model.train": ("self", "trainer"),
        "Model.load": ("self", "weights"),
        "Model.save": ("self", "filename"),
        "Model.reset_weights": ("self",),
        "Model.val": ("self", "validator"),
        "Model.predict": ("self", "source", "stream", "predictor"),
        "Model.export": ("self",),
        "Model.benchmark": ("self",),
    },
}
MARK = "__ultra_dsmoe__"  # set on our replacements, so that none is wrapped twice

_undo: list[tuple[Any, str, Any]] = []
_problem: str | None = None


def misfit(name: str, module: object) -> str | None:
    """Return the first symbol of the host module ``name`` that is missing or has other parameters, else None."""
    for symbol, leading in FACTS[name].items():
        value: Any = module
        for part in symbol.split("."):
            value = getattr(value, part, None)
            if value is None:
                return f"{name}.{symbol} is missing"
        if leading is not None:
            found = tuple(signature(value).parameters)
            if found[: len(leading)] != leading:
                return f"{name}.{symbol}({', '.join(found)}) instead of ({', '.join(leading)}, ...)"
    return None


def refused() -> bool:
    """Whether the host turned out to be one that we do not know."""
    return _problem is not None


def problem() -> str | None:
    """Return the first symbol of the host that does not fit, None on a host that we know."""
    return _problem


def refuse(problem: str) -> None:
    """Take back every change and warn once, naming the first symbol that does not fit."""
    global _problem
    if _problem is not None:
        return
    _problem = problem
    while _undo:
        owner, name, old = _undo.pop()
        if old is None:
            delattr(owner, name)
        else:
            setattr(owner, name, old)
    logging.getLogger("ultralytics").warning(
        f"ultra_dsmoe is off, stock models are not affected: this Ultralytics does not fit, {problem}"
    )


def mark(function: Any) -> Any:
    """Mark a replacement as ours."""
    setattr(function, MARK, True)
    return function


def is_marked(value: Any) -> bool:
    """Whether ``value`` is one of our replacements."""
    return getattr(value.fget if isinstance(value, property) else value, MARK, False)


def replace(owner: Any, name: str, new: Any, *, everywhere: bool = False) -> None:
    """Replace the attribute ``name`` of a host module or class, remembering what was there.

    Args:
        owner: Module or class.
        name: Attribute.
        new: Our replacement, marked with `mark`.
        everywhere: Also replace the host's own by-name imports of it, which exist when we come late.
    """
    old = vars(owner)[name]
    owners = [owner]
    if everywhere:
        owners += [m for m in _host_modules(len(sys.modules)) if m is not owner and vars(m).get(name) is old]
    for place in owners:
        _undo.append((place, name, old))
        setattr(place, name, new)


@functools.lru_cache(maxsize=1)
def _host_modules(count: int) -> list[Any]:
    """Return the host's modules, looked up again when ``count``, the number of loaded modules, is another.

    Looking through all that torch loads is the dearest part of a change, and a host module gets several in a row.
    """
    names = [name for name in list(sys.modules) if name.startswith("ultralytics.")]
    return [module for module in map(sys.modules.get, names) if module is not None]


def add_default(namespace: type, key: str) -> None:
    """Let every set of the host's arguments read None as ``key`` where it was not given.

    As an attribute of their class: among the host's defaults it would go into all that the host writes, stock models'
    ``args.yaml`` and checkpoints included, and nothing without us reads those again.
    """
    if not hasattr(namespace, key):
        setattr(namespace, key, None)
        _undo.append((namespace, key, None))
