"""The data YAMLs that come with the package, and what happens when their images are not there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ultra_dsmoe import checks
from ultra_dsmoe.errors import DataError
from ultra_dsmoe.files import package_roots

# How to get the images of each packaged set; shown when they are missing.
COMMANDS = {
    "pcb-demo": "dsmoe-yolo data make pcb-demo",
    "pcb-demo-ref": "dsmoe-yolo data make pcb-demo-ref",
    "pcb": "dsmoe-yolo data convert-voc pcb PCB_DATASET",
    "deeppcb": "dsmoe-yolo data unpack deeppcb DeepPCB.tar",
    "deeppcb-ref": "dsmoe-yolo data unpack deeppcb DeepPCB.tar",
    "neu-det": "dsmoe-yolo data unpack neu-det NEU-DET.tar",
    "aluminium": "dsmoe-yolo data convert-voc aluminium FOLDER --split 8:1:1",
    "bbmp": "dsmoe-yolo data unpack bbmp ARCHIVE",
    "tilda": "dsmoe-yolo data convert-masks tilda FOLDER",
}

# How to get the known-good pictures of a set that are not among its images.
REFERENCE_COMMANDS = {"deeppcb-ref": "dsmoe-yolo data unpack deeppcb-ref DeepPCB-templates.tar"}

# What in a packaged YAML says where its images are and how to get them; all the rest describes the set itself.
PLACE = frozenset({"path", "train", "val", "test", "download"})


def yaml_folder() -> Path:
    """Return the folder of the packaged data YAMLs: inside an installed package, beside it in a source tree."""
    for root in package_roots():
        if (root / "datasets" / "pcb-demo.yaml").is_file():
            return root / "datasets"
    expected = "the packaged data YAMLs beside the package; install it again"
    raise DataError("datasets", expected, str(package_roots()[0]))


def load(name: str) -> dict[str, Any]:
    """Return a packaged data YAML by its name, with or without ``.yaml``.

    Raises:
        DataError: If there is no such set.
    """
    stem = name.removesuffix(".yaml")
    checks.one_of("data set", stem, COMMANDS, DataError)
    return yaml.safe_load((yaml_folder() / f"{stem}.yaml").read_text(encoding="utf-8"))


def is_file(name: str) -> bool:
    """Whether a name is a data YAML of the user's, not that of a packaged set."""
    path = Path(name)
    return path.suffix in (".yaml", ".yml") and path.is_file() and name.removesuffix(".yaml") not in COMMANDS


def read(name: str) -> dict[str, Any]:
    """Return the data YAML of a packaged set, by its name, or of the user's own, by its file.

    Raises:
        DataError: If there is no such set, or the file is no data YAML.
    """
    if not is_file(name):
        return load(name)
    try:
        data = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(name, "a data YAML that can be read", str(error)) from error
    if not isinstance(data, dict):
        raise DataError(name, "a data YAML with names", type(data).__name__)
    return data


def images_root(name: str) -> Path:
    """Return the ``path`` of a data YAML, as `read` takes it, found the way the host finds it."""
    return place_of(read(name)["path"])


def place_of(folder: str) -> Path:
    """Return where the host looks for a folder with images: here, or among its data sets."""
    from ultralytics import settings  # late: a name look-up needs no host

    path = Path(folder)
    return path.resolve() if path.exists() else (Path(settings["datasets_dir"]) / path).resolve()


def references_root(name: str) -> Path:
    """Return the folder of the known-good pictures of a packaged set that has such a folder."""
    return images_root(name) / load(name)["reference"]


def command_for_references(folder: Path) -> str | None:
    """Return the command that brings the known-good pictures of a packaged set, None for a folder of no such set."""
    return next((how for name, how in REFERENCE_COMMANDS.items() if references_root(name) == folder), None)


def class_names(data: Mapping[str, Any]) -> list[str]:
    """Return the class names of a data YAML in index order; ``names`` may be a list or a mapping.

    Raises:
        DataError: If they are neither, or one is empty.
    """
    return list(checks.class_names(data.get("names"), DataError))


def yaml_beside(
    data: Mapping[str, Any], splits: Mapping[str, str], note: str, changes: Mapping[Any, Any] | None = None
) -> str:
    """Return the text of the data YAML that lies beside a set's images.

    It has everything that the packaged one has, but for the place: names, prompts, taxonomy, groups and what else may
    come. The folder of the file is where the images are, so the set can be moved.

    Args:
        data: The packaged data YAML.
        splits: Where the images of each split are, from the file on.
        note: Where the set came from, one line.
        changes: Entries that are the set's own.
    """
    own = {**splits, **{key: value for key, value in {**data, **(changes or {})}.items() if key not in PLACE}}
    return f"# {note}\n{yaml.safe_dump(own, sort_keys=False, width=120, allow_unicode=True)}"


def refuse_missing(name: str, data: dict[str, Any]) -> None:
    """Tell how to get a set whose images are missing; called by the ``download`` line of its YAML.

    Args:
        name: Name of the packaged set.
        data: The host's data dictionary, with ``path`` resolved.

    Raises:
        DataError: Always; one line with the set, the expected folder and the command.
    """
    root, split = Path(data["path"]), data.get("val")
    folder = Path(split[0] if isinstance(split, list) else split) if split else root
    raise DataError(name, f"images in {folder}; get them with: {COMMANDS[name]}", "no such folder")
