"""Which of the host's tasks have a network and a trainer of ours: a further task moves in by one entry.

Of a network the plugin asks what `DSMoEModel` has: ``options`` and the text, which keys change for one call,
``set_topk``, ``set_moe_mode`` and the other setters behind the keys, and ``require_finite_text``. A trainer reads the
keys from its arguments. Task names, and what else a task needs, are the host's.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, NamedTuple


class Task(NamedTuple):
    """Dotted paths of the two classes; imported when one is needed, since this runs in every program with the host."""

    model: str
    trainer: str


TASKS = {"detect": Task("ultra_dsmoe.model.detector.DSMoEModel", "ultra_dsmoe.train.trainer.DSMoETrainer")}


def load(path: str) -> Any:
    """Import the class that a dotted path names."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def task_of(net: Any) -> str | None:
    """Return the task whose network of ours ``net`` is, None where it is none."""
    for name, task in TASKS.items():
        module, _, cls = task.model.rpartition(".")
        # A network of ours exists only where its module was imported.
        if module in sys.modules and isinstance(net, getattr(sys.modules[module], cls, ())):
            return name
    return None
