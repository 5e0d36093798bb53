"""Models of a study that are no nets: classifiers of `ultra_dsmoe.evaluate.controls`, fitted in place of a training.

```yaml
- {name: record, control: record, fit: qda} # or logistic, forest, which the seed changes
- {name: features, control: [features, record], fit: logistic, overrides: {pretrained: "${WEIGHTS}/yolov8n.pt"}}
```
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.evaluate.controls import BY_CHANCE, FITS, INPUTS

from .checks import distinct, known, plain
from .models import Model
from .overrides import read_overrides

KEYS = ("name", "control", "fit", "overrides", "optional")
# What each input depends on, of the study's and the model's arguments.
NEEDS = {"record": ("dsmoe_provider",), "texts": ("dsmoe_provider", "dsmoe_text"), "features": ("pretrained",)}


def read_control(entry: Mapping[str, Any]) -> Model:
    """Check a control's entry.

    Raises:
        ConfigError: If a key or value is unknown.
    """
    known(dict(entry), KEYS, "models")
    name = plain(entry.get("name"), "models: name")
    given = entry["control"]
    inputs = given if isinstance(given, list) and given else [given]
    for value in inputs:
        checks.one_of(f"models: {name}: control", value, INPUTS)
    distinct(inputs, f"models: {name}: control")
    fit = checks.one_of(f"models: {name}: fit", entry.get("fit", "logistic"), FITS)
    overrides = read_overrides(entry.get("overrides"), f"models: {name}: overrides")
    known(overrides, wanted(inputs), f"models: {name}: overrides")
    if "features" in inputs and not isinstance(overrides.get("pretrained"), str):
        raise ConfigError(
            f"models: {name}: overrides", "pretrained, a checkpoint for the features", overrides or "none"
        )
    return Model(name, "", overrides, control=tuple(inputs), fit=fit, is_fixed=fit not in BY_CHANCE)


def wanted(inputs: Any) -> list[str]:
    """Return the arguments that a control depends on."""
    return [key for value in inputs for key in NEEDS.get(value, ())]


def arguments(model: Model, data: str, sizes: Mapping[str, Any], given: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return all that a control depends on.

    Args:
        model: The control.
        data: The set.
        sizes: Of the study.
        given: The study's arguments.
        seed: Of the cell.
    """
    keys = wanted(model.control)
    found = {"control": list(model.control), "fit": model.fit, "data": data}
    found |= {key: value for key, value in {**given, **model.overrides}.items() if key in keys}
    if "features" in model.control:
        found["imgsz"] = sizes["imgsz"]
    return found if model.is_fixed else {**found, "seed": seed}
