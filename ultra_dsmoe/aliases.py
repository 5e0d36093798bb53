"""Former names of modules whose classes checkpoints name: a checkpoint of before loads after a class has moved.

A pickle holds the module path of each class. Whoever moves a class that may sit in a checkpoint adds its former module
here; entries are never taken out. An import statement that names a former module gets it too, for a while and with a
warning. Imports nothing but the standard library, since every ``import torch`` runs it.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "ultra_dsmoe.nn.head.dual_attention": "ultra_dsmoe.nn.attention.dual_attention",
    "ultra_dsmoe.nn.neck.cbam": "ultra_dsmoe.nn.attention.cbam",
    "ultra_dsmoe.train.distillation": "ultra_dsmoe.train.distill_wrapper",
    "ultra_dsmoe.train.model": "ultra_dsmoe.model.detector",
}


class _Aliases:
    """Meta path finder and loader in one: a former name gives the very module that has taken its place."""

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return a spec for a former name, None for every other module."""
        if name not in MOVED:
            return None
        if _is_named_by_an_import():
            from ultra_dsmoe.deprecations import Former

            Former(MOVED[name], goes="0.3.0").warn(name, stacklevel=2)
        return ModuleSpec(name, cls)  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        """Return the module of today; import itself then writes the former name's spec into it."""
        from importlib import import_module

        module = import_module(MOVED[spec.name])
        spec.loader_state = module.__spec__
        return module

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Give the module its own spec back: it was executed under its own name."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


def _is_named_by_an_import() -> bool:
    """Whether an import statement asks, not a pickle that is read."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("importlib."):
        frame = frame.f_back
    import dis  # late: not a module that every process has

    return dis.opname[frame.f_code.co_code[frame.f_lasti]] == "IMPORT_NAME"


def install() -> None:
    """Let Python's import find former names; safe to call twice."""
    if _Aliases not in sys.meta_path:
        sys.meta_path.append(_Aliases)  # type: ignore[arg-type]  # a class with a find_spec is a finder
