"""Models of a study: named ones, checkpoints, and nets with rows, keys or a text of their own."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError, did_you_mean
from ultra_dsmoe.evaluate.evaluation import quiet

from .checks import digest, file_digest, known, pinned, plain
from .data import Data
from .folders import is_there
from .overrides import WEIGHTS, is_at_hand, read_overrides
from .variant import TEXTS, as_file, check_net, edited

MODEL_KEYS = ("name", "model", "overrides", "rows", "dsmoe", "text", "optional")
TRAINED_ON = "data"  # key of a classifier that is trained on another set than it is validated on


@dataclass(frozen=True)
class Model:
    """A model of the study.

    Attributes:
        name: Its name there.
        source: What the host is asked for; for a net with content of its own the name of its file in each cell.
        overrides: Its own arguments of the training.
        digest: Hash of what its YAML says or of its checkpoint; empty for one that the host has yet to get.
        content: The YAML of a net with other rows or keys, or by path; else empty.
        text: Control text in place of the data set's, one of `TEXTS`, or empty.
        trained_on: Set that it is trained on in place of the study's, which it is validated on; None for the study's.
        control: What a classifier in place of a net sees, see `control`; empty for a net.
        fit: How that is fitted.
        is_fixed: Whether no seed changes it.
    """

    name: str
    source: str
    overrides: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    content: str = ""
    text: str = ""
    trained_on: Data | None = None
    control: tuple[str, ...] = ()
    fit: str = ""
    is_fixed: bool = False


def beside(file: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """Return a model's entry with a file that lies beside the study file by its path from here."""
    source = entry.get("model")
    if isinstance(source, str) and (file.parent / source).is_file():
        return {**entry, "model": str(file.parent / source)}
    return entry


def is_absent(entry: dict[str, Any]) -> bool:
    """Whether a model is optional and weights, or a set of its own, that it names are not there.

    A variable that is not set is a mistake, and stays one.
    """
    optional, overrides = entry.get("optional", False), entry.get("overrides")
    checks.flag("models: optional", optional)
    files = [overrides[k] for k in WEIGHTS if isinstance(overrides.get(k), str)] if isinstance(overrides, dict) else []
    paths = [os.path.expandvars(file) for file in files]
    own = entry.get(TRAINED_ON)
    source = own.get("data") if isinstance(own, dict) else own
    no_set = isinstance(source, str) and "$" not in os.path.expandvars(source) and not is_there(source)
    return optional and (no_set or any("$" not in path and not is_at_hand(path) for path in paths))


def read_model(entry: dict[str, Any]) -> Model:
    """Check a model's entry and load what it names.

    Raises:
        ConfigError: If a key or the model is unknown, or its rows or text do not suit it.
    """
    known(entry, MODEL_KEYS, "models")
    if not isinstance(entry.get("model"), str):
        raise ConfigError("models", "a name such as yolov8n, or a mapping with the key 'model'", entry)
    source = entry["model"] if entry["model"].endswith((".yaml", ".yml", ".pt")) else f"{entry['model']}.yaml"
    name = plain(entry.get("name", Path(source).stem), "models: name")
    overrides = read_overrides(entry.get("overrides"), f"models: {name}: overrides")
    text = entry.get("text", "")
    if text != "":
        checks.one_of(f"models: {name}: text", text, TEXTS)
    base, changes = _load_model(source), (entry.get("rows"), entry.get("dsmoe"))
    if text and base and all(row[2] != "TextSemantics" for row in [*base["backbone"], *base["head"]]):
        raise ConfigError(f"models: {name}: text", "a model with a TextSemantics row", source)
    if base is None:
        if changes != (None, None):
            raise ConfigError(f"models: {name}: rows", "a model YAML as base", source)
        place = pinned(source)
        return Model(name, place, overrides, _checkpoint_digest(place), text=text)
    content = as_file(edited(base, name, *changes))
    if changes == (None, None) and not Path(source).is_file():  # the host finds it by its name
        return Model(name, source, overrides, digest(content), text=text)
    check_net(name, source, content)
    return Model(name, Path(source).name, overrides, digest(content), content, text)


def _checkpoint_digest(source: str) -> str:
    return file_digest(Path(source)) if Path(source).is_file() else ""


def _load_model(source: str) -> dict[str, Any] | None:
    """Return what a model YAML says, as the host, with the plugin, loads it; None for a checkpoint.

    Raises:
        ConfigError: If the host would not find it.
    """
    from ultralytics.nn.tasks import yaml_model_load
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, GITHUB_ASSETS_STEMS

    if source.endswith(".pt"):
        if not Path(source).is_file() and source not in GITHUB_ASSETS_NAMES:
            near = did_you_mean(source, GITHUB_ASSETS_NAMES)
            raise ConfigError("models", f"an existing checkpoint, or one that Ultralytics can get{near}", source)
        return None
    try:
        with quiet():
            return dict(yaml_model_load(source))
    except (OSError, yaml.YAMLError) as e:
        ours = [p.stem for p in (Path(__file__).parents[2] / "cfg" / "models").glob("*.yaml")]
        sizes = [f"dsmoe-{letter}" for letter in "nsm"]
        near = did_you_mean(Path(source).stem, [*ours, *sizes, *GITHUB_ASSETS_STEMS])
        raise ConfigError("models", f"a model YAML that Ultralytics finds{near}", source) from e
