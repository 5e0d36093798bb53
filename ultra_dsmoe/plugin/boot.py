"""Wait for the host's modules and change each one as soon as it has been executed.

Nothing of the host, of torch or of this package's layers is imported here: this runs at the end of every
``import torch``, also in programs that never touch the host.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

# Host module -> our module and function that change it. The host's `utils` itself is only half executed when torch
# calls us, so what lives there (the default arguments) is changed from the hook on `cfg`.
TARGETS = {
    "ultralytics.utils.checks": ("ultra_dsmoe.plugin.lookup", "patch_checks"),
    "ultralytics.utils.torch_utils": ("ultra_dsmoe.plugin.stripping", "patch_torch_utils"),
    "ultralytics.cfg": ("ultra_dsmoe.plugin.keys", "patch_cfg"),
    "ultralytics.nn.tasks": ("ultra_dsmoe.plugin.tasks", "patch_tasks"),
    "ultralytics.data.utils": ("ultra_dsmoe.plugin.reference_data", "patch_utils"),
    "ultralytics.data.build": ("ultra_dsmoe.plugin.reference_data", "patch_build"),
    "ultralytics.engine.exporter": ("ultra_dsmoe.plugin.reference_data", "patch_exporter"),
    "ultralytics.models.yolo.model": ("ultra_dsmoe.plugin.verbs", "patch_yolo"),
}
_searching: set[str] = set()  # targets being looked for, so that our finder stays out of its own way


class _Finder:
    """Meta path finder that lets the ordinary finders find a target and adds one call behind its execution."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the target's ordinary spec with our call added, None for every other module."""
        if name not in TARGETS or name in _searching:
            return None
        _searching.add(name)
        try:
            finders = (f for f in sys.meta_path if f is not cls and hasattr(f, "find_spec"))
            spec = next(filter(None, (f.find_spec(name, path, target) for f in finders)), None)
        finally:
            _searching.discard(name)
        loader = spec.loader if spec is not None else None
        if loader is not None and hasattr(loader, "exec_module"):
            execute = loader.exec_module  # the loader belongs to this spec alone

            def exec_module(module: ModuleType) -> None:
                execute(module)
                fire(name, module)

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Start waiting for the host, and change at once what of it is loaded already; does nothing when switched off."""
    import os

    if os.environ.get("ULTRA_DSMOE_DISABLE", "").strip().lower() in {"1", "true", "yes", "on"}:
        return
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]  # a class with a find_spec is a finder
    for name in TARGETS:
        module = sys.modules.get(name)
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            fire(name, module)


def fire(name: str, module: ModuleType) -> None:
    """Change the host module ``name``, or warn once and take all changes back where it is not the host we know."""
    from ultra_dsmoe.plugin import host

    if host.refused():
        return
    problem = host.misfit(name, module)
    if problem is None:
        place, function = TARGETS[name]
        try:
            getattr(__import__(place, fromlist=[function]), function)(module)
        except Exception as e:  # the one place: an unknown host must never break `import torch` or stock models
            problem = f"{name} ({type(e).__name__}: {e})"
    if problem is not None:
        host.refuse(problem)
