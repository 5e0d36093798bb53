"""What a study file asks for, checked before anything runs: models x data x seeds, one cell each.

A study file is a small YAML:

```yaml
name: peers
models: # a model YAML or checkpoint by name, or a mapping that gives it a name and more
  - yolov8n
  - {name: dsmoe-k3, model: dsmoe-n, overrides: {dsmoe_topk: 3}} # arguments of its own
  - {name: no-cbam, model: dsmoe-n, rows: {14 CBAM: [-1, 1, nn.Identity, []]}} # other rows, see `study_variant`
  - {name: names-only, model: dsmoe-n, text: names} # or shuffled, random, zero: other texts, see `study_variant`
data: [neu-det, deeppcb]
epochs: 20
imgsz: 160
batch: 16
seeds: [0, 1, 2]
overrides: {device: cpu} # arguments of `yolo train` for all
baseline: yolov8n # what the others are compared with; the first model where it is not given
knockouts: true # evaluate every trained net with one thing switched off at a time, too; default false
```

Weights of the user's are named with a variable of the environment, ``pretrained: ${WEIGHTS}/yolov8n.pt``, so that one
study file serves every machine; a cell is known by their content, not by where they lie. So are a teacher's
(``distill_model``).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from study_keys import check_arguments
from study_variant import PROMPTS, TEXTS, as_file, check_net, control_prompts, edited, text_arguments

from ultra_dsmoe.errors import ConfigError, DataError, did_you_mean
from ultra_dsmoe.explain.arguments import MAX_SEED, MIN_PIXELS
from ultra_dsmoe.explain.evaluation import quiet
from ultra_dsmoe.text import make_encoder

NEEDED = ("name", "models", "data", "epochs", "imgsz", "batch", "seeds")
KEYS = (*NEEDED, "overrides", "baseline", "knockouts")
MODEL_KEYS = ("name", "model", "overrides", "rows", "dsmoe", "text")
# Arguments of the host that the study itself gives.
OURS = ("task", "mode", "model", "data", "epochs", "imgsz", "batch", "seed", "project", "name", "save_dir", "exist_ok",
        "resume", "cfg", "val")  # fmt: skip
WEIGHTS = ("pretrained", "distill_model")
FILES = (*WEIGHTS, "dsmoe_prompts", "dsmoe_kd")  # arguments of the host that may be files of the user's
PLAIN_NAME = r"[A-Za-z0-9][\w.+-]*"  # is part of file names
DIGITS = 12  # of a hash; 48 bits keep a few thousand contents apart (our choice)


@dataclass(frozen=True)
class Model:
    """A model of the study.

    Attributes:
        name: Its name there.
        source: What the host is asked for; the base of a net with other rows, which has a file of that name per cell.
        overrides: Its own arguments of the training.
        digest: Hash of what its YAML says or of its checkpoint; empty for one that the host has yet to get.
        content: The YAML of a net with other rows, else empty.
        text: Control text in place of the data set's, one of `TEXTS`, or empty.
    """

    name: str
    source: str
    overrides: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    content: str = ""
    text: str = ""


@dataclass(frozen=True)
class Data:
    """A data set of the study.

    Attributes:
        name: Its YAML's name without the ending.
        source: What the host is asked for.
        digest: Hash of its class names, prompts, taxonomy, images and label files, train and val.
        groups: Regular expression whose first group tells images of one board or tile; None where each stands alone.
        names: Its classes.
        prompts: Their descriptions, where it has any.
    """

    name: str
    source: str
    digest: str
    groups: str | None = None
    names: list[str] = field(default_factory=list)
    prompts: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One training: a model on a data set with a seed."""

    model: Model
    data: Data
    seed: int

    @property
    def name(self) -> str:
        """Name of the cell and of its folder."""
        return f"{self.data.name}-{self.model.name}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A checked study file."""

    name: str
    models: list[Model]
    data: list[Data]
    epochs: int
    imgsz: int
    batch: int
    seeds: list[int]
    overrides: dict[str, Any]
    baseline: str
    knockouts: bool = False

    def cells(self) -> list[Cell]:
        """Return all cells, seed by seed, so that a study that is cut off has compared everything a little."""
        return [Cell(m, d, s) for s in self.seeds for d in self.data for m in self.models]

    def settings(self, cell: Cell) -> dict[str, Any]:
        """Return what a cell's result depends on: `arguments`, and the hashes of its data, net, prompts and weights."""
        arguments, files = self.arguments(cell), self.files(cell)
        hashes = {"data_hash": cell.data.digest, "model_hash": cell.model.digest,
                  "prompts_hash": digest(files[PROMPTS]) if PROMPTS in files else ""}  # fmt: skip
        for key in FILES:
            file = Path(os.path.expandvars(str(arguments.get(key))))
            if str(file) not in files and file.is_file():
                hashes[f"{key}_hash"] = file_digest(file)
        return {**arguments, **{key: value for key, value in hashes.items() if value}}

    def arguments(self, cell: Cell) -> dict[str, Any]:
        """Return the arguments of a cell's training."""
        common = {"epochs": self.epochs, "imgsz": self.imgsz, "batch": self.batch, "seed": cell.seed}
        given = {"model": cell.model.source, "data": cell.data.source, **common}
        text = text_arguments(cell.model.text, cell.seed)
        return {**given, **self.overrides, **cell.model.overrides, **text}

    def files(self, cell: Cell) -> dict[str, str]:
        """Return the files that a cell's training reads from its own folder; `arguments` call them by these names."""
        files = {cell.model.source: cell.model.content} if cell.model.content else {}
        if "dsmoe_prompts" in text_arguments(cell.model.text, cell.seed):
            prompts = control_prompts(cell.model.text, cell.data.names, cell.data.prompts, cell.seed)
            files[PROMPTS] = yaml.safe_dump(prompts, sort_keys=False, allow_unicode=True)
        return files


def digest(content: str | bytes) -> str:
    """Return a short hash of a text."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:DIGITS]


@cache
def file_digest(file: Path) -> str:
    """Return a short hash of a file that does not change while the study runs."""
    return digest(file.read_bytes())


def read_plan(file: Path) -> Plan:
    """Read and check a study file.

    Raises:
        ConfigError: If it is missing or no YAML, lacks a key or has an unknown one, or names an unknown model.
        DataError: If a data set is unknown or its images are not there.
        TextError: If a file of prompts is not of a data set's classes.
    """
    content = _read(file)
    _known(content, KEYS, str(file))
    for key in NEEDED:
        if content.get(key) in (None, [], ""):
            raise ConfigError(f"{file}: {key}", "a value", "none" if content.get(key) is None else content[key])
    overrides = _overrides(content.get("overrides"), "overrides")
    models = [_model(m) for m in _unlike(content["models"], "models")]
    _distinct([m.name for m in models], "models")
    seeds = [_whole(s, "seeds", 0, MAX_SEED) for s in _unlike(content["seeds"], "seeds")]
    _distinct(seeds, "seeds")
    baseline = content.get("baseline", models[0].name)
    if baseline not in (names := [m.name for m in models]):
        raise ConfigError("baseline", f"one of {', '.join(names)}{did_you_mean(str(baseline), names)}", baseline)
    data = [_data(d) for d in _unlike(content["data"], "data")]
    _distinct([d.name for d in data], "data")
    numbers = (_whole(content["epochs"], "epochs", 1), _whole(content["imgsz"], "imgsz", MIN_PIXELS),
               _whole(content["batch"], "batch", 1))  # fmt: skip
    if not isinstance(knockouts := content.get("knockouts", False), bool):
        raise ConfigError("knockouts", "true or false", knockouts)
    plan = Plan(_plain(content["name"], "name"), models, data, *numbers, seeds, overrides, str(baseline), knockouts)
    for cell in plan.cells():
        plan.files(cell)  # fails here where there is nothing to shuffle
    check_arguments(plan)
    return plan


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise ConfigError("study", "a readable YAML file", f"{file} ({' '.join(str(e).split())})") from e
    if not isinstance(content, dict):
        raise ConfigError("study", f"a mapping with the keys {', '.join(KEYS)}", f"{file}")
    return content


def _known(content: dict[Any, Any], keys: Iterable[str], where: str) -> None:
    for key in content:
        if key not in keys:
            raise ConfigError(f"{where}: {key}", f"one of {', '.join(keys)}{did_you_mean(str(key), keys)}", "unknown")


def _unlike(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(key, "a list", value)
    return value


def _distinct(names: list[Any], key: str) -> None:
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise ConfigError(key, "every entry once; give models that share a file a name each", f"{twice} twice")


def _plain(value: Any, key: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(PLAIN_NAME, value):
        raise ConfigError(key, "a name of letters, digits, '.', '_', '+' and '-', since files are called so", value)
    return value


def _whole(value: Any, key: str, low: int, high: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise ConfigError(key, f"whole numbers of at least {low}" if high is None else f"{low} to {high}", value)
    return value


def _overrides(value: Any, where: str) -> dict[str, Any]:
    """Check arguments of the host: known, of the right type, and none that the study gives itself."""
    import ultralytics.cfg as host

    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(where, "a mapping of the host's train arguments", value)
    if mine := [k for k in value if k in OURS]:
        raise ConfigError(f"{where}: {mine[0]}", "arguments that the study does not give itself", mine[0])
    _known(value, [k for k in host.DEFAULT_CFG_DICT if k not in OURS], where)
    try:
        with quiet():
            host.get_cfg(overrides={k: os.path.expandvars(v) if isinstance(v, str) else v for k, v in value.items()})
    except (TypeError, ValueError, SyntaxError) as e:
        raise ConfigError(where, "values that the host accepts", " ".join(str(e).split())) from e
    if value.get("dsmoe_text"):
        make_encoder(value["dsmoe_text"])  # loads nothing, but knows whether the model is there
    for key in FILES:
        given = value.get(key)
        if isinstance(given, str) and (key in WEIGHTS or given.endswith((".yaml", ".yml"))):
            _require_file(given, f"{where}: {key}")
    return value


def _require_file(given: str, where: str) -> None:
    """Refuse a file that is not there and that the host cannot get, and variables that are not set."""
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    path = os.path.expandvars(given)
    if unset := re.search(r"\$\{?(\w+)", path):
        raise ConfigError(where, f"the environment variable {unset[1]} to be set", given)
    if not Path(path).is_file() and path not in GITHUB_ASSETS_NAMES:
        raise ConfigError(where, "an existing file, or the bare name of weights that the host can get", path)


def _model(entry: Any) -> Model:
    if not isinstance(entry, dict):
        entry = {"model": entry}
    _known(entry, MODEL_KEYS, "models")
    if not isinstance(entry.get("model"), str):
        raise ConfigError("models", "a name such as yolov8n, or a mapping with the key 'model'", entry)
    source = entry["model"] if entry["model"].endswith((".yaml", ".yml", ".pt")) else f"{entry['model']}.yaml"
    name = _plain(entry.get("name", Path(source).stem), "models: name")
    overrides = _overrides(entry.get("overrides"), f"models: {name}: overrides")
    text = entry.get("text", "")
    if text not in ("", *TEXTS):
        raise ConfigError(f"models: {name}: text", f"one of {', '.join(TEXTS)}{did_you_mean(str(text), TEXTS)}", text)
    base, changes = _load_model(source), (entry.get("rows"), entry.get("dsmoe"))
    if text and base and all(row[2] != "TextSemantics" for row in [*base["backbone"], *base["head"]]):
        raise ConfigError(f"models: {name}: text", "a model with a TextSemantics row", source)
    if changes == (None, None):
        pinned = _pinned(source)
        return Model(name, pinned, overrides, digest(as_file(base)) if base else _checkpoint_digest(pinned), text=text)
    if base is None:
        raise ConfigError(f"models: {name}: rows", "a model YAML as base", source)
    content = as_file(edited(base, name, *changes))
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
            raise ConfigError("models", f"an existing checkpoint, or one that the host can get{near}", source)
        return None
    try:
        with quiet():
            return dict(yaml_model_load(source))
    except (OSError, yaml.YAMLError) as e:
        ours = [p.stem for p in (Path(__file__).parents[1] / "cfg" / "models").glob("*.yaml")]
        sizes = [f"dsmoe-{letter}" for letter in "nsm"]
        near = did_you_mean(Path(source).stem, [*ours, *sizes, *GITHUB_ASSETS_STEMS])
        raise ConfigError("models", f"a model YAML that the host finds{near}", source) from e


def _pinned(source: str) -> str:
    """Return a path that holds in any working folder; bare names stay, they mean the same everywhere."""
    return os.path.abspath(source) if Path(source).is_file() else source


def _data(entry: Any) -> Data:
    from ultralytics.data.utils import check_det_dataset

    from ultra_dsmoe.data.packaged import COMMANDS
    from ultra_dsmoe.data.voc import GROUPS

    if not isinstance(entry, str):
        raise ConfigError("data", "names of data YAMLs", entry)
    source = entry if entry.endswith((".yaml", ".yml")) else f"{entry}.yaml"
    stem = Path(source).stem
    try:
        with quiet():
            content = check_det_dataset(source)
    except DataError:
        raise
    except (OSError, SyntaxError, TypeError, RuntimeError, yaml.YAMLError) as e:
        near = did_you_mean(stem, COMMANDS)
        said = " ".join(str(e).split())
        raise DataError("data", f"a data YAML whose images are there{near}", f"{entry} ({said})") from e
    groups = content.get("groups", GROUPS.get(stem))
    try:
        if groups is not None and re.compile(groups).groups != 1:
            raise DataError(f"{source}: groups", "a regular expression with one group in parentheses", groups)
    except (re.error, TypeError) as e:
        raise DataError(f"{source}: groups", "a regular expression", groups) from e
    # A file called data.yaml is named by its folder.
    name = stem if stem != "data" else Path(source).resolve().parent.name
    names = [str(content["names"][i]).strip() for i in sorted(content["names"])]
    given = content.get("prompts")
    # A section that is no mapping is left to the training, which refuses it.
    items = given.items() if isinstance(given, dict) else ()
    prompts = {str(k).strip(): [v] if isinstance(v, str) else v for k, v in items}
    return Data(_plain(name, "data"), _pinned(source), data_digest(content), groups, names, prompts)


def data_digest(content: dict[str, Any]) -> str:
    """Return the hash of a data set as the host sees it: classes and texts, images and labels of train and val.

    Reads every image once, which a study that trains on them for hours can afford.

    Args:
        content: The host's data dictionary.

    Raises:
        DataError: If a split has no images.
    """
    from ultralytics.data.utils import img2label_paths

    root = str(content.get("path", ""))
    texts = yaml.safe_dump([content.get(key) for key in ("prompts", "taxonomy")])  # in alphabetical order
    parts = [repr(sorted(content["names"].items())), texts]
    for split in ("train", "val"):
        images = list_images(content.get(split))
        if not images:
            raise DataError("data", f"images in its '{split}' split", str(content.get(split)))
        for image, label in zip(images, map(Path, img2label_paths(images)), strict=True):
            lines = digest(label.read_bytes()) if label.is_file() else ""
            name = os.path.relpath(image, root) if root else image
            parts.append(f"{split} {name} {digest(Path(image).read_bytes())} {lines}")
    return digest("\n".join(parts))


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
