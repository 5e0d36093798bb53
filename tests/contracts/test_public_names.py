"""Public names and the modules that define them are a promise: checkpoints pickle classes by module path.

`public_names.txt` lists them. After an intended change write it anew and read the difference::

    python tests/contracts/test_public_names.py > tests/contracts/public_names.txt
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import ultra_dsmoe

LIST = Path(__file__).with_name("public_names.txt")
ROOMS = ("", *(room.name for room in pkgutil.iter_modules(ultra_dsmoe.__path__) if room.ispkg))
OF_PYTHON = ("annotations", "TYPE_CHECKING")
# Files that users import by themselves, and those that every block and command builds on.
FILES = ("checks", "deprecations", "errors", "files", "parsing", "edge.lint", "edge.preflight", "evaluate.evaluation",
         "export.parity",
         "model.detector", "runtime.detector", "runtime.engine")  # fmt: skip


def public(module: ModuleType) -> list[str]:
    """Return ``__all__``; without one, what `dir` of a room offers, or what a file itself defines."""
    declared = getattr(module, "__all__", None)
    if declared is not None:
        return list(declared)
    values = {n: getattr(module, n) for n in dir(module) if not n.startswith("_")}
    if not hasattr(module, "__path__"):
        return [n for n, value in values.items() if origin(value) == f"{module.__name__}.{n}"]
    return [n for n, value in values.items() if not isinstance(value, ModuleType) and n not in OF_PYTHON]


def origin(value: object) -> str:
    """Return where a class or function is defined, the kind of anything else."""
    if isinstance(value, type) or inspect.isfunction(value):
        return f"{value.__module__}.{value.__qualname__}"
    return value.__name__ if isinstance(value, ModuleType) else type(value).__name__


def load(room: str) -> ModuleType:
    return importlib.import_module(f"ultra_dsmoe.{room}".rstrip("."))


def own_layers() -> dict[str, type]:
    """Return the package's YAML layers, without the toys that other tests of this process enrolled."""
    from ultra_dsmoe.nn import LAYERS

    return {name: cls for name, cls in LAYERS.items() if cls.__module__.startswith("ultra_dsmoe.")}


def current() -> list[str]:
    """Return one line ``module.name = place of definition`` per public name, and one per YAML layer."""
    names = {f"{m.__name__}.{n} = {origin(getattr(m, n))}" for m in map(load, (*ROOMS, *FILES)) for n in public(m)}
    return sorted(names) + sorted(f"layer {name} = {origin(cls)}" for name, cls in own_layers().items())


def test_names_are_the_listed_ones() -> None:
    listed, now = LIST.read_text(encoding="utf-8").split("\n")[:-1], current()
    gone, new = sorted(set(listed) - set(now)), sorted(set(now) - set(listed))
    assert not gone, f"removed or moved (old checkpoints and users break; keep an alias): {gone}"
    assert not new, f"new, to be added to {LIST.name}: {new}"
    assert listed == now


@pytest.mark.parametrize("room", [*ROOMS, *FILES])
def test_every_public_name_is_documented(room: str) -> None:
    module = load(room)
    names = public(module)
    assert len(names) == len(set(names))
    bare = [n for n in names if callable(getattr(module, n)) and not inspect.getdoc(getattr(module, n))]
    assert not bare, f"without docstring: {bare}"


def test_layers_are_public() -> None:
    """A layer that a YAML may name can also be imported from `ultra_dsmoe.nn` and used without YAML."""
    from ultra_dsmoe import nn

    assert own_layers()
    assert set(own_layers()) <= set(nn.__all__)


if __name__ == "__main__":
    print("\n".join(current()))
