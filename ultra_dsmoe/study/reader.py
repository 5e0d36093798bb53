"""What a study file asks for, checked before anything runs: models x data x seeds, one cell each.

A study file is a small YAML:

```yaml
name: peers
models: # a model YAML or checkpoint by name, or a mapping that gives it a name and more
  - yolov8n
  - {name: dsmoe-k3, model: dsmoe-n, overrides: {dsmoe_topk: 3}} # arguments of its own
  - {name: no-cbam, model: dsmoe-n, rows: {14 CBAM: [-1, 1, nn.Identity, []]}} # other rows, see `variant`
  - {name: mine, model: nets/dsmoe-n.yaml} # a file, looked for beside the study file first
  - {name: names-only, model: dsmoe-n, text: names} # or shuffled, random, zero: other texts, see `variant`
data: [neu-det, {data: deeppcb, imgsz: 320, epochs: 12}] # a mapping where epochs, imgsz or batch differ
epochs: 20
imgsz: 160
batch: 16
seeds: [0, 1, 2]
overrides: {device: cpu} # arguments of `yolo train` for all
baseline: yolov8n # what the others are compared with; a list; `previous`: each with the one above it; else the first
# or a mapping, {no-cbam: k2, mine: k2}: each named model with its own
knockouts: true # evaluate every trained net with one thing switched off at a time, too; default false
```

Weights of the user's are named with a variable of the environment, ``pretrained: ${WEIGHTS}/yolov8n.pt``, so that one
study file serves every machine; a cell is known by their content, not by where they lie. So are a teacher's
(``distill_model``). A model with ``optional: true`` is left out where its weights, or the set that it is trained on,
are not there; the page names it.

With ``task: classify`` data are folders of images, ``hits-demo`` or such as ``${SETS}/crops``, with ``groups`` where
images belong together; a model's ``data`` is a set that it is trained on in place of the study's; and controls, see
`control`, stand among the models. ``split: test`` validates on that half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ultra_dsmoe.checks import one_of, whole
from ultra_dsmoe.constants import MAX_SEED
from ultra_dsmoe.errors import ConfigError

from .checks import SIZES, distinct, entries, known, plain
from .control import read_control
from .data import Data, read_data
from .folders import read_folder
from .keys import check_arguments
from .models import TRAINED_ON, Model, beside, is_absent, read_model
from .overrides import read_overrides
from .plan import PREVIOUS, Plan
from .task import DETECT, TASKS, Detection

NEEDED = ("name", "models", "data", "epochs", "imgsz", "batch", "seeds")
KEYS = (*NEEDED, "overrides", "baseline", "knockouts", "task", "split")


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
    task = TASKS[one_of("task", content.get("task", DETECT.name), list(TASKS))]
    split = one_of("split", content.get("split", "val"), ["val", "test"])
    read: Callable[..., Data] = read_data if task is DETECT else read_folder
    overrides = read_overrides(content.get("overrides"), "overrides")
    given = [beside(file, m if isinstance(m, dict) else {"model": m}) for m in entries(content["models"], "models")]
    missing = [m for m in given if is_absent(m)]
    models = [_model(m, task, split) for m in given if m not in missing]
    absent = tuple(str(m.get("name", m.get("model"))) for m in missing)
    if not models:
        raise ConfigError(
            f"{file}: models", "weights and data of at least one optional model", f"none of {', '.join(absent)}"
        )
    distinct([m.name for m in models], "models")
    seeds = [whole("seeds", s, 0, MAX_SEED) for s in entries(content["seeds"], "seeds")]
    distinct(seeds, "seeds")
    baselines, against = _baselines(content.get("baseline"), [m.name for m in models], absent)
    data = [read(d, split) for d in entries(content["data"], "data")]
    distinct([d.name for d in data], "data")
    sizes = {key: whole(key, content[key], least) for key, least in SIZES.items()}
    if not isinstance(knockouts := content.get("knockouts", False), bool):
        raise ConfigError("knockouts", "true or false", knockouts)
    if len(data) > 1 and any(m.trained_on for m in models):
        raise ConfigError("data", "one data set where a model is trained on another", ", ".join(d.name for d in data))
    name = plain(content["name"], "name")
    plan = Plan(name, models, data, sizes, seeds, overrides, baselines, knockouts, absent, task, split, against)
    for cell in plan.cells():
        plan.files(cell)  # fails here where there is nothing to shuffle
    check_arguments(plan)
    return plan


def _baselines(
    baseline: Any, names: Sequence[str], absent: Sequence[str]
) -> tuple[list[str], tuple[tuple[str, str], ...]]:
    """Return what models are compared with: all with each of a list, or each with its own, as pairs.

    Args:
        baseline: Of the study file, None where it says nothing.
        names: Of the models.
        absent: Of those that are left out, whose pairs are too.

    Raises:
        ConfigError: If a name is none of them, or comes twice, or a model is compared with itself.
    """
    if isinstance(baseline, dict) and baseline:
        known_names = [*names, *absent]
        for model, other in baseline.items():
            one_of("baseline", model, known_names)
            one_of(f"baseline: {model}", other, [n for n in known_names if n != model])
        pairs = tuple((m, b) for m, b in baseline.items() if m in names and b in names)
        return list(dict.fromkeys(b for _, b in pairs)), pairs
    baselines = [str(b) for b in (baseline if isinstance(baseline, list) else [baseline or names[0]])]
    distinct(baselines, "baseline")
    for name in baselines:
        one_of("baseline", name, [*names, PREVIOUS])
    return baselines, ()


def _model(entry: dict[str, Any], task: Detection, split: str) -> Model:
    """Read a model: a net, one that is trained on a set of its own, or a control."""
    if task is DETECT:
        return read_model(entry)
    if "control" in entry:
        return read_control(entry)
    model = read_model({k: v for k, v in entry.items() if k != TRAINED_ON})
    return replace(model, trained_on=read_folder(entry[TRAINED_ON], split)) if TRAINED_ON in entry else model


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
            raise ConfigError(key, "a value as in YAML", value) from e
        if not sign or key in ("models", "overrides"):
            raise ConfigError("change", "KEY=VALUE, of a key such as epochs or an argument of `yolo train`", change)
        if key not in KEYS:
            content = {**content, "overrides": {**(content.get("overrides") or {}), key: given}}
            continue
        content = {**content, key: given}
        if key in SIZES and isinstance(content.get("data"), list):
            content["data"] = [{k: v for k, v in d.items() if k != key} if isinstance(d, dict) else d
                               for d in content["data"]]  # fmt: skip
    return content
