"""What a study file asks for, checked before anything runs: models x data x seeds, one cell each.

A study file is a small YAML:

```yaml
name: peers
models: # a model YAML or checkpoint by name, or a mapping that gives it a name and more
  - yolov8n
  - {name: dsmoe-k3, model: dsmoe-n, overrides: {dsmoe_topk: 3}} # arguments of its own
  - {name: no-cbam, model: dsmoe-n, rows: {14 CBAM: [-1, 1, nn.Identity, []]}} # other rows, see `study_variant`
  - {name: mine, model: nets/dsmoe-n.yaml} # a file, looked for beside the study file first
  - {name: names-only, model: dsmoe-n, text: names} # or shuffled, random, zero: other texts, see `study_variant`
data: [neu-det, {data: deeppcb, imgsz: 320, epochs: 12}] # a mapping where epochs, imgsz or batch differ
epochs: 20
imgsz: 160
batch: 16
seeds: [0, 1, 2]
overrides: {device: cpu} # arguments of `yolo train` for all
baseline: yolov8n # what the others are compared with, or a list; `previous`: each with the one above it; else the first
knockouts: true # evaluate every trained net with one thing switched off at a time, too; default false
```

Weights of the user's are named with a variable of the environment, ``pretrained: ${WEIGHTS}/yolov8n.pt``, so that one
study file serves every machine; a cell is known by their content, not by where they lie. So are a teacher's
(``distill_model``). A model with ``optional: true`` is left out where its weights are not there; the page names it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from study_checks import SIZES, digest, distinct, entries, file_digest, known, pinned, plain, whole
from study_data import Data, read_data
from study_keys import check_arguments
from study_variant import PROMPTS, TEXTS, as_file, check_net, control_prompts, edited, text_arguments

from ultra_dsmoe.errors import ConfigError, did_you_mean
from ultra_dsmoe.explain.arguments import MAX_SEED
from ultra_dsmoe.explain.evaluation import quiet
from ultra_dsmoe.text import make_encoder

NEEDED = ("name", "models", "data", "epochs", "imgsz", "batch", "seeds")
PREVIOUS = "previous"  # as a baseline: of each model, the one above it
KEYS = (*NEEDED, "overrides", "baseline", "knockouts")
MODEL_KEYS = ("name", "model", "overrides", "rows", "dsmoe", "text", "optional")
# Arguments of the host that the study itself gives.
OURS = ("task", "mode", "model", "data", "epochs", "imgsz", "batch", "seed", "project", "name", "save_dir", "exist_ok",
        "resume", "cfg", "val")  # fmt: skip
WEIGHTS = ("pretrained", "distill_model")
FILES = (*WEIGHTS, "dsmoe_prompts", "dsmoe_kd")  # arguments of the host that may be files of the user's


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
    """

    name: str
    source: str
    overrides: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    content: str = ""
    text: str = ""


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
    """A checked study file.

    ``sizes`` holds what of `SIZES` its data sets do not say otherwise; ``absent`` the models that are left out.
    """

    name: str
    models: list[Model]
    data: list[Data]
    sizes: dict[str, int]
    seeds: list[int]
    overrides: dict[str, Any]
    baselines: list[str]
    knockouts: bool = False
    absent: tuple[str, ...] = ()

    def cells(self) -> list[Cell]:
        """Return all cells, seed by seed, so that a study that is cut off has compared everything a little."""
        return [Cell(m, d, s) for s in self.seeds for d in self.data for m in self.models]

    def sizes_of(self, data: Data) -> dict[str, int]:
        """Return the `SIZES` of the trainings on a data set."""
        return {**self.sizes, **data.sizes}

    def pairs(self) -> list[tuple[str, str]]:
        """Return the models, each with the one that it is compared with, baseline by baseline."""
        names = [m.name for m in self.models]
        above = {PREVIOUS: list(zip(names[1:], names, strict=False))}
        pairs = [pair for b in self.baselines for pair in above.get(b, [(name, b) for name in names if name != b])]
        return list(dict.fromkeys(pairs))

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
        common = {"model": cell.model.source, "data": cell.data.source, **self.sizes_of(cell.data)}
        text = text_arguments(cell.model.text, cell.seed)
        return {**common, "seed": cell.seed, **self.overrides, **cell.model.overrides, **text}

    def files(self, cell: Cell) -> dict[str, str]:
        """Return the files that a cell's training reads from its own folder; `arguments` call them by these names."""
        files = {cell.model.source: cell.model.content} if cell.model.content else {}
        if "dsmoe_prompts" in text_arguments(cell.model.text, cell.seed):
            prompts = control_prompts(cell.model.text, cell.data.names, cell.data.prompts, cell.seed)
            files[PROMPTS] = yaml.safe_dump(prompts, sort_keys=False, allow_unicode=True)
        return files


def read_plan(file: Path, changes: Sequence[str] = ()) -> Plan:
    """Read and check a study file.

    Args:
        file: The study file.
        changes: ``KEY=VALUE`` in place of what it says, VALUE as in YAML: a key of the file but for ``models``, or an
            argument of ``yolo train`` for all. Sizes then hold for all its data sets.

    Raises:
        ConfigError: If it is missing or no YAML, lacks a key or has an unknown one, or names an unknown model.
        DataError: If a data set is unknown or its images are not there.
        TextError: If a file of prompts is not of a data set's classes.
    """
    content = _changed(_read(file), changes)
    known(content, KEYS, str(file))
    for key in NEEDED:
        if content.get(key) in (None, [], ""):
            raise ConfigError(f"{file}: {key}", "a value", "none" if content.get(key) is None else content[key])
    overrides = _overrides(content.get("overrides"), "overrides")
    given = [_beside(file, m if isinstance(m, dict) else {"model": m}) for m in entries(content["models"], "models")]
    missing = [m for m in given if _is_absent(m)]
    models = [_model(m) for m in given if m not in missing]
    absent = tuple(str(m.get("name", m.get("model"))) for m in missing)
    if not models:
        raise ConfigError(f"{file}: models", "weights of at least one optional model", f"none of {', '.join(absent)}")
    distinct([m.name for m in models], "models")
    seeds = [whole(s, "seeds", 0, MAX_SEED) for s in entries(content["seeds"], "seeds")]
    distinct(seeds, "seeds")
    baseline = content.get("baseline") or models[0].name
    baselines = [str(b) for b in (baseline if isinstance(baseline, list) else [baseline])]
    distinct(baselines, "baseline")
    if strange := [b for b in baselines if b not in (names := [*(m.name for m in models), PREVIOUS])]:
        raise ConfigError("baseline", f"one of {', '.join(names)}{did_you_mean(strange[0], names)}", strange[0])
    data = [read_data(d) for d in entries(content["data"], "data")]
    distinct([d.name for d in data], "data")
    sizes = {key: whole(content[key], key, least) for key, least in SIZES.items()}
    if not isinstance(knockouts := content.get("knockouts", False), bool):
        raise ConfigError("knockouts", "true or false", knockouts)
    plan = Plan(plain(content["name"], "name"), models, data, sizes, seeds, overrides, baselines, knockouts, absent)
    for cell in plan.cells():
        plan.files(cell)  # fails here where there is nothing to shuffle
    check_arguments(plan)
    return plan


def _beside(file: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """Return a model's entry with a file that lies beside the study file by its path from here."""
    source = entry.get("model")
    beside = isinstance(source, str) and (file.parent / source).is_file()
    return {**entry, "model": str(file.parent / source)} if beside else entry


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise ConfigError("study", "a readable YAML file", f"{file} ({' '.join(str(e).split())})") from e
    if not isinstance(content, dict):
        raise ConfigError("study", f"a mapping with the keys {', '.join(KEYS)}", f"{file}")
    return content


def _changed(content: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Return what a study file says with some of it changed."""
    for change in changes:
        key, sign, value = change.partition("=")
        try:
            given = yaml.safe_load(value)
        except yaml.YAMLError as e:
            raise ConfigError(f"--set {key}", "a value as in YAML", value) from e
        if not sign or key in ("models", "overrides"):
            raise ConfigError("--set", "KEY=VALUE, of a key such as epochs or an argument of `yolo train`", change)
        if key not in KEYS:
            content = {**content, "overrides": {**(content.get("overrides") or {}), key: given}}
            continue
        content = {**content, key: given}
        if key in SIZES and isinstance(content.get("data"), list):
            content["data"] = [{k: v for k, v in d.items() if k != key} if isinstance(d, dict) else d
                               for d in content["data"]]  # fmt: skip
    return content


def _overrides(value: Any, where: str) -> dict[str, Any]:
    """Check arguments of the host: known, of the right type, and none that the study gives itself."""
    import ultralytics.cfg as host

    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(where, "a mapping of the host's train arguments", value)
    if mine := [k for k in value if k in OURS]:
        raise ConfigError(f"{where}: {mine[0]}", "arguments that the study does not give itself", mine[0])
    known(value, [k for k in host.DEFAULT_CFG_DICT if k not in OURS], where)
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
    path = os.path.expandvars(given)
    if unset := re.search(r"\$\{?(\w+)", path):
        raise ConfigError(where, f"the environment variable {unset[1]} to be set", given)
    if not _is_at_hand(path):
        raise ConfigError(where, "an existing file, or the bare name of weights that the host can get", path)


def _is_at_hand(path: str) -> bool:
    """Whether a file is there or the host can get it."""
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    return Path(path).is_file() or path in GITHUB_ASSETS_NAMES


def _is_absent(entry: dict[str, Any]) -> bool:
    """Whether a model is optional and a file of weights that it names is not there; an unset variable is a mistake."""
    optional, overrides = entry.get("optional", False), entry.get("overrides")
    if not isinstance(optional, bool):
        raise ConfigError("models: optional", "true or false", optional)
    files = [overrides[k] for k in WEIGHTS if isinstance(overrides.get(k), str)] if isinstance(overrides, dict) else []
    paths = [os.path.expandvars(file) for file in files]
    return optional and any("$" not in path and not _is_at_hand(path) for path in paths)


def _model(entry: dict[str, Any]) -> Model:
    known(entry, MODEL_KEYS, "models")
    if not isinstance(entry.get("model"), str):
        raise ConfigError("models", "a name such as yolov8n, or a mapping with the key 'model'", entry)
    source = entry["model"] if entry["model"].endswith((".yaml", ".yml", ".pt")) else f"{entry['model']}.yaml"
    name = plain(entry.get("name", Path(source).stem), "models: name")
    overrides = _overrides(entry.get("overrides"), f"models: {name}: overrides")
    text = entry.get("text", "")
    if text not in ("", *TEXTS):
        raise ConfigError(f"models: {name}: text", f"one of {', '.join(TEXTS)}{did_you_mean(str(text), TEXTS)}", text)
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
