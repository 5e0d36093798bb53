"""The data sets of a study: what is known of them, and the hash that tells one content from another."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ultra_dsmoe.checks import whole
from ultra_dsmoe.data.groups import check_groups
from ultra_dsmoe.data.reference.choice import SECTION, chosen
from ultra_dsmoe.data.reference.references import References
from ultra_dsmoe.errors import ConfigError, DataError, did_you_mean
from ultra_dsmoe.evaluate.evaluation import quiet

from .checks import SIZES, digest, known, pinned, plain


@dataclass(frozen=True)
class Data:
    """A data set of the study.

    Attributes:
        name: Its YAML's name without the ending.
        source: What the host is asked for.
        digest: Hash of its class names, prompts, taxonomy, images and label files, train and val, or of a set of
            folders as `folders` says.
        groups: Regular expression whose first group tells images of one board or tile; None where each stands alone.
        names: Its classes.
        prompts: Their descriptions, where it has any.
        sizes: What of `SIZES` differs from the study's on this data set.
    """

    name: str
    source: str
    digest: str
    groups: str | None = None
    names: list[str] = field(default_factory=list)
    prompts: dict[str, list[str]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


def read_data(entry: Any, split: str = "val") -> Data:
    """Look at a data set that a study names.

    Args:
        entry: Name of its YAML, or a mapping with the key ``data`` and what differs from the study's `SIZES`.
        split: What the nets are validated on.

    Raises:
        ConfigError: If the entry is no such thing.
        DataError: If the data set is unknown, its images are not there, or its groups are no regular expression.
    """
    from ultralytics.data.utils import check_det_dataset

    from ultra_dsmoe.data.packaged import COMMANDS

    sizes = dict(entry) if isinstance(entry, dict) else {}
    given = sizes.pop("data", None) if isinstance(entry, dict) else entry
    if not isinstance(given, str):
        raise ConfigError("data", "names of data YAMLs, or mappings with the key 'data'", entry)
    source = given if given.endswith((".yaml", ".yml")) else f"{given}.yaml"
    stem = Path(source).stem
    known(sizes, SIZES, f"data: {stem}")
    sizes = {key: whole(f"data: {stem}: {key}", value, SIZES[key]) for key, value in sizes.items()}
    try:
        with quiet():
            content = check_det_dataset(source)
    except DataError:
        raise
    except (OSError, SyntaxError, TypeError, RuntimeError, yaml.YAMLError) as e:
        near = did_you_mean(stem, COMMANDS)
        said = " ".join(str(e).split())
        raise DataError("data", f"a data YAML whose images are there{near}", f"{given} ({said})") from e
    groups = check_groups(source, content.get("groups"))
    # A file called data.yaml is named by its folder.
    name = stem if stem != "data" else Path(source).resolve().parent.name
    names = [str(content["names"][i]).strip() for i in sorted(content["names"])]
    section = content.get("prompts")
    # A section that is no mapping is left to the training, which refuses it.
    items = section.items() if isinstance(section, dict) else ()
    prompts = {str(k).strip(): [v] if isinstance(v, str) else v for k, v in items}
    return Data(plain(name, "data"), pinned(source), data_digest(content, split), groups, names, prompts, sizes)


def data_digest(content: dict[str, Any], split: str = "val") -> str:
    """Return the hash of a data set as the host sees it: classes and texts, images and labels of train, val and split.

    Reads every image once, which a study that trains on them for hours can afford.

    Args:
        content: The host's data dictionary.
        split: What the nets are validated on.

    Raises:
        DataError: If a split has no images.
    """
    from ultralytics.data.utils import img2label_paths

    root = str(content.get("path", ""))
    texts = yaml.safe_dump([content.get(key) for key in ("prompts", "taxonomy")])  # in alphabetical order
    parts = [repr(sorted(content["names"].items())), texts]
    for part in dict.fromkeys(("train", "val", split)):
        images: list[str | Path] = [*list_images(content.get(part))]
        if not images:
            raise DataError("data", f"images in its '{part}' split", str(content.get(part)))
        for image, label in zip(images, map(Path, img2label_paths(images)), strict=True):
            lines = digest(label.read_bytes()) if label.is_file() else ""
            name = os.path.relpath(image, root) if root else image
            parts.append(f"{part} {name} {digest(Path(image).read_bytes())} {lines}")
        parts += _reference_parts(content, images)
    return digest("\n".join(parts))


def _reference_parts(content: dict[str, Any], images: list[str | Path]) -> list[str]:
    """Return what a set's known-good pictures add to its hash: what is said of them, and the one of each image."""
    section = content.get(SECTION)
    spec = chosen(content, Path(content.get("path") or "."))
    if spec is None:
        return []
    references = References(spec, content.get("channels", 3))
    known: dict[Path, str] = {}
    parts = [repr(sorted(section.items())) if isinstance(section, dict) else ""]
    for image in images:
        if found := references.find(image):
            known[found] = known.get(found) or digest(found.read_bytes())
            parts.append(f"reference {Path(image).name} {known[found]}")
    return parts


def list_images(places: str | list[str] | None) -> list[str]:
    """Return the images of a split, sorted: those in folders, those listed in text files."""
    from ultralytics.data.utils import IMG_FORMATS

    found: list[str] = []
    for place in map(Path, [places] if isinstance(places, str) else places or []):
        if place.is_dir():
            found += [str(p) for p in place.rglob("*") if p.suffix[1:].lower() in IMG_FORMATS]
        elif place.is_file():
            lines = place.read_text(encoding="utf-8").split()
            found += [str(place.parent / line) if line.startswith("./") else line for line in lines]
    return sorted(found)
