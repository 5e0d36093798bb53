"""Which of the host's tasks have a network and a trainer of ours: a further task moves in by one entry.

Of a network the plugin asks what `DSMoEModel` has: ``options`` and the text, which keys change for one call,
``set_topk``, ``set_moe_mode`` and the other setters behind the keys, and ``require_finite_text``. A trainer reads the
keys from its arguments. Task names, and what else a task needs, are the host's.
"""

from __future__ import annotations

import functools
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from ultra_dsmoe.errors import ConfigError


class Task(NamedTuple):
    """Dotted paths of classes; imported when one is needed, since this runs in every program with the host.

    Attributes:
        model: The network.
        trainer: Its trainer.
        validator: Its validator, None where the host's serves.
        predictor: Its predictor, None where the host's serves.
        mark: Key of an exported file's metadata by which such a file is known, None where the host's classes serve it.
        what: What errors call such a network.
        keys: Which of our keys mean something for it, None for all but those of other tasks.
    """

    model: str
    trainer: str
    validator: str | None = None
    predictor: str | None = None
    mark: str | None = None
    what: str = "a detector of ours"
    keys: tuple[str, ...] | None = None

    def classes(self) -> dict[str, Any]:
        """Return what stands in for the host's classes, by the names of its own table."""
        named = {role: getattr(self, role) for role in ("model", "trainer", "validator", "predictor")}
        return {role: load(path) for role, path in named.items() if path}


TASKS = {
    "detect": Task(
        "ultra_dsmoe.model.detector.DSMoEModel",
        "ultra_dsmoe.train.trainer.DSMoETrainer",
        "ultra_dsmoe.evaluate.reference_validator.ReferenceValidator",
        "ultra_dsmoe.evaluate.reference_predictor.ReferencePredictor",
        mark="dsmoe_reference",
    ),
    "classify": Task(
        "ultra_dsmoe.model.classifier.PairModel",
        "ultra_dsmoe.train.pair_trainer.PairTrainer",
        "ultra_dsmoe.evaluate.pair_validator.PairValidator",
        "ultra_dsmoe.evaluate.pair_predictor.PairPredictor",
        mark="dsmoe_pair",
        what="a classifier of ours",
        keys=("dsmoe_text", "dsmoe_provider", "dsmoe_parity"),
    ),
}


def load(path: str) -> Any:
    """Import the class that a dotted path names."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def require_task(own: str | None, asked: str, cfg: dict[str, Any]) -> None:
    """Refuse to build a model YAML of ours for another task than its own.

    Args:
        own: Task of its head, None for one that is not told by it.
        asked: Task of the command.
        cfg: Its content.

    Raises:
        ConfigError: If they differ and the net is one of `TASKS`.
    """
    if own is None or own == asked or own not in TASKS:
        return
    name = Path(str(cfg.get("yaml_file") or "MODEL.yaml")).name
    command, kind = f"as in 'yolo {own} train model={name}'", TASKS[own].what
    raise ConfigError("task", f"{own}, {command}, since the model YAML is that of {kind}", asked)


def task_of_file(model: Any, task: str | None) -> str | None:
    """Return the task of ours that an exported file is for, None where the host's own classes serve it.

    Args:
        model: What a ``YOLO`` object holds: a network, or the path of an exported file.
        task: The object's task.
    """
    known = TASKS.get(task or "")
    if known is None or known.mark is None or not isinstance(model, (str, Path)):
        return None
    return task if has_mark(model, known.mark) else None


def has_mark(file: str | Path, mark: str) -> bool:
    """Whether the metadata of an exported file or folder has a key."""
    place = Path(file)
    if not place.exists():
        return False
    table = place / "metadata.yaml" if place.is_dir() else place  # of OpenVINO's folders
    stamp = table.stat() if table.is_file() else place.stat()
    return mark in _keys(place, stamp.st_mtime_ns, stamp.st_size)


@functools.lru_cache(maxsize=8)
def _keys(file: Path, changed: int, size: int) -> frozenset[str]:
    """Return the keys of a file's metadata; the host asks for its classes many times in a call."""
    from ultra_dsmoe.runtime.file_metadata import read_metadata  # late: every program with the host imports this

    return frozenset(read_metadata(file))


def task_of(net: Any) -> str | None:
    """Return the task whose network of ours ``net`` is, None where it is none."""
    for name, task in TASKS.items():
        module, _, cls = task.model.rpartition(".")
        # A network of ours exists only where its module was imported.
        if module in sys.modules and isinstance(net, getattr(sys.modules[module], cls, ())):
            return name
    return None
