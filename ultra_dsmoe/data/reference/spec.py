"""What a user says about known-good pictures: the line ``reference:`` of a data YAML, or the key of a command."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ultra_dsmoe import checks
from ultra_dsmoe.data.reference import strengths
from ultra_dsmoe.data.reference.strengths import Strengths, read_strengths
from ultra_dsmoe.errors import ConfigError

MISSING = ("error", "blank")
ALIGN = ("none", "shift", "affine")
OPTIONS = {"missing": MISSING, "align": ALIGN}
PLACES = ("folder", "csv", "pattern", "file")
KEYS = (*PLACES, *OPTIONS, *strengths.KEYS)
NOTHING = ("none", "false")  # words for no references at all
FORMS = "a folder, a .csv file, a picture, or {pattern: ..., file: ...}"
GROUP = re.compile(r"\{(\w*)\}")  # a place for a group of the pattern in a template


@dataclass(frozen=True)
class ReferenceSpec:
    """Where the known-good pictures are, and what to do with them; one of the places is set.

    Attributes:
        folder: Folder with pictures of the images' names.
        csv: File with the columns image and reference.
        pattern: Regular expression searched in an image's name without its ending; its groups fill in ``file``.
        file: With a pattern a template, such as ``golden/{1}.png``; alone the picture that serves all images.
        image: The picture that serves all images, (H, W, C) or (H, W), uint8 or uint16, BGR; from Python only.
        missing: What an image without one means: an ``error``, or a ``blank`` reference.
        align: How a reference is laid on its image: ``none``, by a ``shift``, by an ``affine`` map.
        strengths: How much a training changes pairs.
        root: What relative paths in the CSV start from.
        argument: Under which name it was given, for errors.
    """

    folder: Path | None = None
    csv: Path | None = None
    pattern: str | None = None
    file: Path | None = None
    image: np.ndarray | None = field(default=None, compare=False, repr=False)
    missing: str = "error"
    align: str = "none"
    strengths: Strengths = field(default_factory=Strengths)
    root: Path = Path()
    argument: str = field(default="reference", compare=False)

    def state(self) -> dict[str, Any]:
        """Return it as plain values that `read_spec` takes; of an array there is its shape alone."""
        places = {name: getattr(self, name) for name in PLACES}
        state: dict[str, Any] = {name: str(value) for name, value in places.items() if value is not None}
        if self.image is not None:
            state["image"] = list(self.image.shape)
        return {**state, **{name: getattr(self, name) for name in OPTIONS}, **self.strengths.state()}


def read_spec(argument: str, value: Any, root: Path, base: ReferenceSpec | None = None) -> ReferenceSpec | None:
    """Return what a user said, None where that is "no references".

    Args:
        argument: Under which name it was given: ``reference`` in a data YAML, ``dsmoe_reference`` on a command line.
        value: A path or a mapping (as text too), an array or a PIL image; None, False or ``none`` for no references.
        root: What relative paths start from.
        base: The data YAML's, whose options hold where this one has none.

    Raises:
        ConfigError: If it is something else.
    """
    if is_nothing(value):
        return None
    if isinstance(value, str) and value.strip().startswith("{"):
        value = _mapping(argument, value)
    given: dict[str, Any] = {name: getattr(base, name) for name in (*OPTIONS, "strengths")} if base else {}
    if isinstance(value, Mapping):
        return _of_mapping(argument, value, root, given, base)
    picture = _picture(argument, value)
    if picture is not None:
        return ReferenceSpec(image=picture, argument=argument, **given)
    if not isinstance(value, (str, Path)) or not str(value).strip():
        raise ConfigError(argument, FORMS, value)
    path = _path(root, value)
    given[_kind(path)] = path
    return ReferenceSpec(root=root, argument=argument, **given)


def is_nothing(value: Any) -> bool:
    """Whether a user says that there are no references."""
    return value is None or value is False or (isinstance(value, str) and value.strip().lower() in NOTHING)


def plain(argument: str, value: Any, root: Path) -> Any:
    """Return what a user said as plain values that mean the same in any folder, checked; arguments as of `read_spec`.

    Returns:
        A path, a mapping, or False for no references; an array or a PIL image as it came.

    Raises:
        ConfigError: If it is something else.
    """
    spec = read_spec(argument, value, root, ReferenceSpec())
    if spec is None:
        return False
    if spec.image is not None:
        return value
    places = {name: str(place) for name in PLACES if (place := getattr(spec, name)) is not None}
    if isinstance(value, str) and value.strip().startswith("{"):
        value = _mapping(argument, value)
    return {**value, **places} if isinstance(value, Mapping) else next(iter(places.values()))


def _mapping(argument: str, text: str) -> Any:
    """Return a mapping that was given as text."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError(argument, FORMS, f"{text} ({str(e).splitlines()[0]})") from e


def _of_mapping(
    argument: str, value: Mapping[Any, Any], root: Path, given: dict[str, Any], base: ReferenceSpec | None
) -> ReferenceSpec:
    """Return what a mapping says."""
    checks.known(argument, value, KEYS)
    for name, words in OPTIONS.items():
        if name in value:
            given[name] = checks.one_of(f"{argument}.{name}", value[name], words)
    given["strengths"] = read_strengths(argument, value, given.get("strengths"))
    places = {name: value[name] for name in PLACES if name in value}
    for name, place in places.items():
        if not isinstance(place, (str, Path)) or not str(place).strip():
            raise ConfigError(f"{argument}.{name}", "text", place)
    if not places and base is not None:
        return replace(base, argument=argument, **given)
    if len(places) != 1 and set(places) != {"pattern", "file"}:
        expected = "one place: folder, csv, file, or pattern and file"
        raise ConfigError(argument, expected, ", ".join(places) or "none of them")
    if "pattern" in places:
        return _of_pattern(argument, places, root, given)
    given.update({name: _path(root, place) for name, place in places.items()})
    return ReferenceSpec(root=root, argument=argument, **given)


def _of_pattern(argument: str, places: dict[str, Any], root: Path, given: dict[str, Any]) -> ReferenceSpec:
    """Return what a pattern and a template say."""
    if "file" not in places:
        raise ConfigError(argument, "a file beside the pattern, such as golden/{1}.png", "none")
    pattern, template = str(places["pattern"]), str(places["file"])
    try:
        compiled = re.compile(pattern)
    except re.error as e:
        raise ConfigError(f"{argument}.pattern", "a regular expression", f"{pattern} ({e})") from e
    if not compiled.groups:
        raise ConfigError(f"{argument}.pattern", "at least one group in parentheses", pattern)
    groups = ["0", *map(str, range(1, compiled.groups + 1)), *compiled.groupindex]
    used = GROUP.findall(template)
    if not used or any(name not in groups for name in used):
        expected = f"a template with groups of the pattern, {', '.join(f'{{{g}}}' for g in groups[1:])}"
        raise ConfigError(f"{argument}.file", expected, template)
    return ReferenceSpec(pattern=pattern, file=_path(root, template), root=root, argument=argument, **given)


def _kind(path: Path) -> str:
    """Return which kind of place a path is."""
    from ultralytics.data.utils import IMG_FORMATS  # late: a spec alone needs no host

    suffix = path.suffix[1:].lower()
    if path.is_dir():
        return "folder"
    return "csv" if suffix == "csv" else "file" if suffix in IMG_FORMATS else "folder"


def _path(root: Path, text: str | Path) -> Path:
    return (root / Path(text).expanduser()).resolve()


def _picture(argument: str, value: Any) -> np.ndarray | None:
    """Return the pixels of an array or a PIL image, None for anything else."""
    from PIL.Image import Image

    if isinstance(value, Image):
        if value.mode in ("L", "I;16"):
            return np.asarray(value)
        return np.ascontiguousarray(np.asarray(value.convert("RGB"))[..., ::-1])
    if not isinstance(value, np.ndarray):
        return None
    is_picture = value.dtype in (np.uint8, np.uint16) and value.ndim in (2, 3) and 0 not in value.shape
    if not is_picture:
        raise ConfigError(argument, "an array (H, W, C) or (H, W), uint8 or uint16", f"{value.dtype} of {value.shape}")
    return value
