"""No class reaches a provider: read from the syntax trees of the providers and of what calls them.

A class is a folder's name. So providers know no path beside that of their own model, take pixels and records alone,
and import nothing that reads labels; the one file that has paths hands on what it read from them, never a part of one.
"""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import pytest

from ultra_dsmoe.text import providers, sidecar_files, sidecars

PROVIDERS = sorted(Path(providers.__file__).parent.glob("*.py"))
# What methods of providers may be handed: everything that a describer, a reader or a whole provider is asked with.
ASKED = {
    "fit": {"images", "records"},
    "describe": {"text", "image", "record"},
    "read": {"image"},
}
HANDED = {  # as `sidecars` calls them
    "self.provider.fit": {"Pictures(paths)", "records"},
    "self.provider.describe": {"image", "numbers"},
    "describer.describe": {"text", "picture", "record"},
    "reader.read": {"pixels(place, content)"},
}
PARTS_OF_PATHS = {"name", "stem", "parts", "parent", "parents", "relative_to", "split", "rsplit"}
LABELS = {"label", "labels", "class_name", "class_names", "class_id", "class_ids", "classes", "target", "targets",
          "category", "categories"}  # fmt: skip
# Where paths are taken apart, and why: to find a file by them; nothing of it goes further.
FINDING = {
    "sidecars": set(),
    "sidecar_files": {
        "image.parent",  # the folder in which a sidecar's `record_image` is looked for
        "image.absolute().relative_to(root).parent",  # the same place under records/
        "image.stem",
        "image.absolute().parents",  # the folder that holds train/
        "image.absolute().relative_to",  # the row of a table
        "self.path.parent",
    },
}


def arguments(function: ast.FunctionDef) -> set[str]:
    found = function.args
    return {a.arg for a in (*found.posonlyargs, *found.args, *found.kwonlyargs)} - {"self", "cls"}


def taken(source: str) -> list[str]:
    """Return the methods of providers that take more than pixels and records."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        for function in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(function, ast.FunctionDef) and function.name in ASKED:
                wrong += [f"{function.name}({name})" for name in arguments(function) - ASKED[function.name]]
                wrong += [f"{function.name}(*)"] * bool(function.args.vararg or function.args.kwarg)
    return wrong


def label_words(source: str) -> list[str]:
    """Return names of variables, arguments and attributes that speak of labels."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
    return sorted(names & LABELS)


def parts_of_paths(source: str) -> list[str]:
    """Return the expressions that take a path apart."""
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute))
    return sorted({ast.unparse(node) for node in nodes if node.attr in PARTS_OF_PATHS})


@pytest.mark.parametrize("path", PROVIDERS, ids=lambda path: path.stem)
def test_providers_take_pixels_and_records_alone(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not taken(source)
    assert not label_words(source)


@pytest.mark.parametrize("path", PROVIDERS, ids=lambda path: path.stem)
def test_providers_reach_nothing_that_knows_labels(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    ours = {name for name in imported if name.startswith("ultra_dsmoe")}
    allowed = ("ultra_dsmoe.errors", "ultra_dsmoe.constants", "ultra_dsmoe.text.providers", "ultra_dsmoe.text.generate",
               "ultra_dsmoe.text.model_hub", "ultra_dsmoe.text.models")  # fmt: skip
    assert all(name.startswith(allowed) for name in ours), ours
    assert not any(name.split(".")[0] == "ultralytics" for name in imported)


def test_calls_hand_on_pixels_and_numbers_alone() -> None:
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(Path(sidecars.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in HANDED:
            handed = [*node.args, *(keyword.value for keyword in node.keywords)]
            found.setdefault(ast.unparse(node.func), set()).update(map(ast.unparse, handed))
    assert found == HANDED


@pytest.mark.parametrize("module", [sidecars, sidecar_files])
def test_paths_are_taken_apart_to_find_files_alone(module: ModuleType) -> None:
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    assert set(parts_of_paths(source)) == FINDING[module.__name__.rpartition(".")[2]]
    assert not label_words(source)


@pytest.mark.parametrize(
    "source",
    [
        "class A:\n    def describe(self, text, image, record, label): ...",
        "class A:\n    def describe(self, text, image, record, *more): ...",
        "class A:\n    def read(self, path): ...",
    ],
)
def test_a_planted_argument_is_found(source: str) -> None:
    assert taken(source)


def test_a_planted_label_or_folder_is_found() -> None:
    assert label_words("def f(image, label): return label") == ["label"]
    assert parts_of_paths("def f(path): return path.parent.name") == ["path.parent", "path.parent.name"]
