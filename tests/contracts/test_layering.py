"""Imports go one way, one folder patches the host, and our blocks compose the host's instead of subclassing them.

A file imports its own folder and folders further left in `ORDER`. Read from the syntax trees, so imports inside
functions and for types only count too. What runs at the line (`runtime`, `edge`) needs neither torch nor the host.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ultra_dsmoe"

ORDER = (
    ("aliases", "ops", "losses", "runtime", "edge"),
    ("nn", "text", "data"),
    ("distill",),
    ("model",),
    ("evaluate",),
    ("train",),  # a training validates
    ("export",),  # what happens around the host's exporter
    ("explain",),
    ("plugin",),
    ("study",),
    ("commands",),
    ("cli",),
)
# The preflight asks torch and host what they see: they are what is being checked. Nothing else there needs them.
EXCEPTIONS = {("edge/preflight.py", "torch"), ("edge/preflight.py", "ultralytics.utils")}
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
EVERYWHERE = {"causes", "checks", "constants", "deprecations", "errors", "files", "logs", "parsing"}  # of all rooms
ENTRY_ROOMS = {"aliases", "cli", "plugin"}  # what the package's own __init__ starts

HOST = "ultralytics"
# What a room may not take from the host. Losses and blocks see tensors, never a trainer; operators see nothing of it.
FORBIDDEN = {
    "ops": (HOST,),
    "nn": (f"{HOST}.engine", f"{HOST}.models", f"{HOST}.cfg", f"{HOST}.data", "transformers", "geoopt"),
    "runtime": (HOST, "torch", "torchvision", "timm"),
    "edge": (HOST, "torch", "torchvision", "timm"),
    "losses": (f"{HOST}.engine", f"{HOST}.models", f"{HOST}.cfg", f"{HOST}.data"),
}
# Reached from the hook on ultralytics.nn.tasks, which the host imports from inside engine.model: an import of these
# at module level would be circular.
ENGINE = (f"{HOST}.engine", f"{HOST}.models")
BELOW_ENGINE = (
    *(f"ultra_dsmoe.model.{name}" for name in ("detector", "text_side", "criterion", "input_rows")),
    "ultra_dsmoe.nn",
    "ultra_dsmoe.losses",
)
MUTATORS = {"setdefault", "update", "pop", "append", "extend", "insert", "remove", "clear", "__setattr__", "setattr"}


def module_name(path: str) -> str:
    """``nn/neck/cbam.py`` -> ``ultra_dsmoe.nn.attention.cbam``."""
    parts = ["ultra_dsmoe", *Path(path).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, path: str) -> Iterator[tuple[int, str, str | None]]:
    """Yield (line, module, name or None) of every import below ``tree``, relative ones resolved."""
    package = module_name(path) if path.endswith("__init__.py") else module_name(path).rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                module = ".".join([*base, *([module] if module else [])])
            yield from ((node.lineno, module, alias.name) for alias in node.names)


def starts(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in prefixes)


def room_of(module: str, name: str | None) -> str:
    """Return the folder (or top-level file) of our package that an import reaches, '' for the package itself."""
    parts = module.split(".")[1:]
    return parts[0] if parts else name if name and not name.startswith("__") else ""


def direction(path: str, tree: ast.AST) -> Iterator[str]:
    """Yield imports that go against the order."""
    room = Path(path).parts[0].removesuffix(".py")
    if room == "__init__" and isinstance(tree, ast.Module):
        tree = at_import(tree)  # type checkers see the public names there, which are imported when they are asked for
    for line, module, name in imports(tree, path):
        where = f"{path}:{line}"
        if (path, module) not in EXCEPTIONS and starts(f"{module}.{name}" if name else module, FORBIDDEN.get(room, ())):
            yield f"{where}: {room} may not import {module}"
        if not starts(module, ("ultra_dsmoe",)):
            continue
        target = room_of(module, name)
        if target in EVERYWHERE or target in ("", room):
            continue
        if target not in RANK or (room not in RANK and room != "__init__"):
            yield f"{where}: {room} or {target} has no place in the order"
        elif room == "__init__":
            if target not in ENTRY_ROOMS:
                yield f"{where}: the package itself starts only {sorted(ENTRY_ROOMS)}, not {target}"
        elif RANK[target] >= RANK[room]:
            yield f"{where}: {room} may not import {target}"


def root_name(node: ast.AST) -> str | None:
    """Return the variable at the bottom of ``a.b[c].d``."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def host_bindings(tree: ast.AST) -> dict[str, str]:
    """Return what each name stands for that this file imports from the host."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update({a.asname or a.name.split(".")[0]: a.name for a in node.names if starts(a.name, (HOST,))})
        elif isinstance(node, ast.ImportFrom) and not node.level and starts(node.module or "", (HOST,)):
            found.update({a.asname or a.name: f"{node.module}.{a.name}" for a in node.names})
    return found


def patches(path: str, tree: ast.AST) -> Iterator[str]:
    """Yield writes to the host's modules, classes and tables, and to Python's import machinery."""
    if Path(path).parts[0] in ("plugin", "aliases.py"):
        return
    bound = host_bindings(tree)
    for node in ast.walk(tree):
        touched: list[ast.AST] = []
        if isinstance(node, (ast.Assign, ast.Delete)):
            touched = [t for t in node.targets if isinstance(t, (ast.Attribute, ast.Subscript))]
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            touched = [node.target] if isinstance(node.target, (ast.Attribute, ast.Subscript)) else []
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in ("setattr", "delattr") and node.args:
                touched = [node.args[0]]
            elif isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
                touched = [node.func.value]
        for target in touched:
            text = ast.unparse(target)
            if root_name(target) in bound or text.startswith(("sys.meta_path", "sys.modules")):
                yield f"{path}:{node.lineno}: only plugin/ may change {text}"


def subclasses(path: str, tree: ast.AST) -> Iterator[str]:
    """Yield blocks that inherit from the host's: it swaps their forward at fuse and export. Heads may."""
    if Path(path).parts[0] != "nn":
        return
    bound = host_bindings(tree)
    for node in ast.walk(tree):
        for base in node.bases if isinstance(node, ast.ClassDef) else ():
            if root_name(base) in bound and not ast.unparse(base).endswith(("Detect", "Classify")):
                yield f"{path}:{node.lineno}: {node.name} inherits from the host's {ast.unparse(base)}; compose it"


def violations(path: str, source: str) -> list[str]:
    tree = ast.parse(source)
    return [*direction(path, tree), *patches(path, tree), *subclasses(path, tree)]


def package_sources() -> dict[str, str]:
    return {p.relative_to(PACKAGE).as_posix(): p.read_text(encoding="utf-8") for p in sorted(PACKAGE.rglob("*.py"))}


def at_import(tree: ast.Module) -> ast.Module:
    """Return the tree without function bodies and type-checking blocks: what runs when the module is imported."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Strip().visit(tree)


def reached(start: str, sources: dict[str, str]) -> dict[str, list[str]]:
    """Return every module that importing ``start`` runs, ours and others', with the chain that leads to it."""
    files = {module_name(path): path for path in sources}
    chains: dict[str, list[str]] = {}
    queue = [(start, [start])]
    while queue:
        module, chain = queue.pop()
        if module in chains:
            continue
        chains[module] = chain
        if parent := module.rpartition(".")[0]:  # a package's __init__ runs first
            queue.append((parent, [*chain, parent]))
        if path := files.get(module):
            for _, target, name in imports(at_import(ast.parse(sources[path])), path):
                full = f"{target}.{name}"
                reach = full if full in files or (starts(target, (HOST,)) and name) else target
                queue.append((reach, [*chain, reach]))
    return chains


def engine_chains(start: str, sources: dict[str, str]) -> list[str]:
    return [" -> ".join(chain) for module, chain in reached(start, sources).items() if starts(module, ENGINE)]


def test_package_keeps_the_order() -> None:
    sources = package_sources()
    assert len(sources) > 10, "the package was not found"
    found = [line for path, source in sources.items() for line in violations(path, source)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("start", BELOW_ENGINE)
def test_model_side_stays_below_the_engine(start: str) -> None:
    sources = package_sources()
    if start not in {module_name(path) for path in sources}:
        pytest.fail(f"{start} is not in the package; this list is old")
    assert not engine_chains(start, sources)


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        ("ops/a.py", "from ultra_dsmoe.nn import CBAM", "ops may not import nn"),
        ("ops/a.py", "import ultralytics.nn.modules", "ops may not import ultralytics"),
        ("nn/neck/a.py", "from ultra_dsmoe.text.bank import TextBank", "nn may not import text"),
        ("nn/neck/a.py", "def f():\n    from ultra_dsmoe import text", "nn may not import text"),
        ("nn/neck/a.py", "from ...text import bank", "nn may not import text"),
        ("nn/a.py", "from ultralytics.engine.trainer import BaseTrainer", "nn may not import ultralytics.engine"),
        ("nn/a.py", "from ultralytics import engine", "nn may not import ultralytics"),
        ("losses/a.py", "import ultra_dsmoe.model.criterion as c", "losses may not import model"),
        ("train/a.py", "from ultra_dsmoe.plugin import routing", "train may not import plugin"),
        ("export/a.py", "import ultra_dsmoe.cli", "export may not import cli"),
        ("runtime/a.py", "import torch", "runtime may not import torch"),
        ("runtime/a.py", "from ultra_dsmoe.nn import CBAM", "runtime may not import nn"),
        ("evaluate/a.py", "from ultra_dsmoe.commands import arguments", "evaluate may not import commands"),
        ("export/a.py", "from ultra_dsmoe.plugin import keys", "export may not import plugin"),
        ("text/a.py", "from ultra_dsmoe.newroom import x", "has no place"),
        ("newroom/a.py", "from ultra_dsmoe.ops import x", "has no place"),
        ("__init__.py", "from ultra_dsmoe.nn import CBAM", "starts only"),
        ("train/a.py", "from ultralytics.nn import tasks\ntasks.parse_model = None", "only plugin/ may change"),
        ("train/a.py", "import ultralytics\nultralytics.nn.tasks.x = 1", "only plugin/ may change"),
        ("cli.py", "from ultralytics.cfg import DEFAULT_CFG_DICT as D\nD['dsmoe_topk'] = 1", "only plugin/ may change"),
        ("cli.py", "from ultralytics import YOLO\nsetattr(YOLO, 'task_map', 1)", "only plugin/ may change"),
        ("cli.py", "from ultralytics.cfg import DEFAULT_CFG_DICT as D\nD.update(a=1)", "only plugin/ may change"),
        ("export/a.py", "import sys\nsys.meta_path.insert(0, None)", "only plugin/ may change"),
        ("nn/a.py", "from ultralytics.nn.modules import C2f\nclass A(C2f): pass", "compose it"),
    ],
)
def test_planted_violation_is_found(path: str, source: str, message: str) -> None:
    assert any(message in line for line in violations(path, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("nn/a.py", "from ultralytics.nn.modules import Conv\nfrom ultra_dsmoe.ops import poincare"),
        ("nn/head/a.py", "from ultralytics.nn.modules import Detect\nclass A(Detect): pass"),
        ("nn/head/a.py", "from ultralytics.nn.modules import Classify\nclass A(Classify): pass"),
        ("train/a.py", "from ultra_dsmoe import __version__\nfrom ultra_dsmoe.errors import DataError"),
        ("plugin/a.py", "from ultralytics.nn import tasks\ntasks.parse_model = None"),
        ("cli.py", "from ultra_dsmoe import export, explain\nfrom ultra_dsmoe.plugin import activate"),
    ],
)
def test_allowed_import_is_not_reported(path: str, source: str) -> None:
    assert violations(path, source) == []


def test_planted_engine_import_is_found_through_a_package() -> None:
    sources = {
        "__init__.py": "",
        "model/__init__.py": "from ultra_dsmoe.train.trainer import DSMoETrainer",
        "train/trainer.py": "from ultralytics.models.yolo.detect import DetectionTrainer",
        "model/detector.py": "import torch",
    }
    assert engine_chains("ultra_dsmoe.model.detector", sources)
    sources["model/__init__.py"] = "def trainer():\n    from ultra_dsmoe.train.trainer import DSMoETrainer"
    assert not engine_chains("ultra_dsmoe.model.detector", sources)
