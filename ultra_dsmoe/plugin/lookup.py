"""Find model, recipe and data YAMLs of this package by bare name; a file of the user's always wins."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Any

from ultra_dsmoe.files import package_roots
from ultra_dsmoe.plugin import host

# `dsmoe-n` and `dsmoen` are one size of one family, which lives in one file. The letter is the scale; `dsmoe-p2` is a
# file of its own, since p2 is no scale. A form of a family, as `dsmoe-n-ref`, is another file with the same sizes.
FAMILY = r"^(?P<stem>dsmoe|tmodel|smodel|gasnet)-?(?P<scale>[nslmx])(?P<form>-ref)?$"  # compiled when it is needed
FAMILY_FILES = {"dsmoe": "dsmoe-conv"}  # where the file is not called like the family
FOLDERS = ("cfg/models", "cfg/train", "datasets")
RECIPES = "train"  # `train/tmodel.yaml` is the recipe, `tmodel.yaml` the net
_asked: list[str] = []  # model YAMLs being loaded, innermost last


def packaged(name: str, folders: tuple[str, ...] = FOLDERS) -> str | None:
    """Return the path of the packaged file with this bare name, None where there is none."""
    for root in package_roots():
        for folder in folders:
            if found := sorted((root / folder).glob(f"**/{name}")):
                return str(found[0])
    return None


def spellings(name: str) -> list[str]:
    """Return all file names, best first, that may answer to the bare file name ``name``."""
    stem, suffix = os.path.splitext(name)
    match = re.match(FAMILY, stem)
    if match is None:
        return [name]
    name, letter, form = match["stem"], match["scale"], match["form"] or ""
    family = name + form if form else FAMILY_FILES.get(name, name)
    stems = dict.fromkeys([stem, f"{name}-{letter}{form}", f"{name}{letter}{form}", family])
    return [s + suffix for s in stems]


def find(file: str) -> str | None:
    """Return the file that answers to ``file``, None where that is the host's business.

    Order: the user's file under this or its other spelling, in the folder that was named; then, for a bare name or
    one in ``train/``, the packaged one.
    """
    if not file.endswith((".yaml", ".yml")) or "://" in file or os.path.exists(file):
        return None
    folder, name = os.path.split(file)
    names = spellings(name)
    for other in names[1:]:
        if os.path.exists(local := os.path.join(folder, other)):
            return local
    if folder and folder != RECIPES:
        return None
    if folder:
        return packaged(name, (f"cfg/{RECIPES}",))
    path = next(filter(None, map(packaged, names)), None)
    # Older hosts ask for `yolov8-dsmoe.yaml` before the `yolov8s-dsmoe.yaml` that the user named and has.
    if path and _asked and os.path.isfile(_asked[-1]):
        return _asked[-1]
    return path


def patch_checks(checks: Any) -> None:
    """Let the host's ``check_file`` find packaged YAMLs."""
    stock = checks.check_file
    if host.is_marked(stock):
        return

    @functools.wraps(stock)
    def check_file(file: Any, *args: Any, **kwargs: Any) -> Any:
        return stock(find(str(file).strip()) or file, *args, **kwargs)

    host.replace(checks, "check_file", host.mark(check_file), everywhere=True)


def patch_names(tasks: Any) -> None:
    """Let the host read our scale letters, and remember which model YAML is being asked for."""
    stock_scale, stock_load = tasks.guess_model_scale, tasks.yaml_model_load
    if host.is_marked(stock_scale):
        return

    @functools.wraps(stock_scale)
    def guess_model_scale(model_path: Any) -> str:
        match = re.match(FAMILY, Path(model_path).stem)
        return match["scale"] if match else stock_scale(model_path)

    @functools.wraps(stock_load)
    def yaml_model_load(path: Any) -> dict[str, Any]:
        _asked.append(str(path))
        try:
            return stock_load(path)
        finally:
            _asked.pop()

    host.replace(tasks, "guess_model_scale", host.mark(guess_model_scale), everywhere=True)
    host.replace(tasks, "yaml_model_load", host.mark(yaml_model_load), everywhere=True)
