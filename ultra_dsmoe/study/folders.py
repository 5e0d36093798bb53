"""The classification sets of a study: folders of images, one per class, with what stands beside the images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ultra_dsmoe.checks import whole
from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.groups import check_groups
from ultra_dsmoe.data.hits import demo
from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.text.sidecar_files import RECORDS, TABLE

from .checks import SIZES, digest, known, plain
from .data import Data, list_images
from .overrides import expanded

TRAINED_ON = ("train", "val")


def place(source: str) -> Path:
    """Return the folder of a set: a path, which may name variables of the environment, or ``hits-demo``."""
    return packaged.place_of(os.path.expandvars(source))


def is_there(source: str) -> bool:
    """Whether a set's folder is there, or can be drawn."""
    return source == demo.NAME or place(source).is_dir()


def read_folder(entry: Any, split: str) -> Data:
    """Look at a set that a study names; the embedded one is drawn where it is missing.

    Args:
        entry: The folder, or a mapping with the key ``data`` and what differs from the study's `SIZES`, or the set's
            ``groups``: a regular expression whose first group tells images that belong together.
        split: What the nets are validated on.

    Raises:
        ConfigError: If the entry is no such thing.
        DataError: If there is no such folder, or a split lacks images or classes.
    """
    own = dict(entry) if isinstance(entry, dict) else {}
    source = own.pop("data", None) if isinstance(entry, dict) else entry
    if not isinstance(source, str):
        raise ConfigError("data", "folders, or mappings with the key 'data'", entry)
    expanded(source, "data")
    root = place(source)
    if source == demo.NAME:
        demo.provide(root)
    name = plain(root.name, "data")
    known(own, (*SIZES, "groups"), f"data: {name}")
    groups = check_groups(name, own.pop("groups", None))
    sizes = {key: whole(f"data: {name}: {key}", value, SIZES[key]) for key, value in own.items()}
    names = class_folders(root, split)
    return Data(name, source, folder_digest(root, names, split), groups, names, {}, sizes)


def class_folders(root: Path, split: str) -> list[str]:
    """Return the names of the classes, which are the same in all splits: numbers are given by the folders there.

    Raises:
        DataError: If a split has none, or others than the training half.
    """
    found: dict[str, list[str]] = {}
    for part in dict.fromkeys((*TRAINED_ON, split)):
        folder = root / part
        found[part] = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
        if not found[part]:
            raise DataError("data", f"a folder with {part}/CLASS/ folders of images", f"{root}, without any in {part}/")
        if found[part] != found["train"]:
            wanted = f"the classes of its training half in {part}/ ({', '.join(found['train'])})"
            raise DataError(f"data {root.name}", wanted, ", ".join(found[part]))
    return found["train"]


def folder_digest(root: Path, names: list[str], split: str) -> str:
    """Return the hash of a set: classes, images, and the texts and records beside them.

    Raises:
        DataError: If a split has no images.
    """
    parts = [repr(names)]
    for part in dict.fromkeys((*TRAINED_ON, split)):
        images = [Path(image) for image in list_images(str(root / part))]
        if not images:
            raise DataError("data", f"images in its '{part}' split", str(root / part))
        for image in images:
            sidecar = image.with_suffix(".json")
            said = digest(sidecar.read_bytes()) if sidecar.is_file() else ""
            parts.append(f"{image.relative_to(root).as_posix()} {digest(image.read_bytes())} {said}")
    beside = [root / TABLE, *sorted(p for p in (root / RECORDS).rglob("*") if p.is_file())]
    parts += [f"{file.relative_to(root).as_posix()} {digest(file.read_bytes())}" for file in beside if file.is_file()]
    return digest("\n".join(parts))
