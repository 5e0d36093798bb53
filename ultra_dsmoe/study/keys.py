"""Whether the plugin's arguments suit a study's models and data sets, asked before anything runs.

Else only the trainings would find out, one after the other, and each cell would fail by itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from ultra_dsmoe.errors import ConfigError, TextError, WeightsError
from ultra_dsmoe.evaluate.evaluation import load_network, quiet
from ultra_dsmoe.plugin import keys
from ultra_dsmoe.plugin.yaml_rows import is_ours
from ultra_dsmoe.text.prompts import class_prompts, read_prompt_file

from .models import Model
from .plan import Cell, Plan


def check_arguments(plan: Plan) -> None:
    """Check the plugin's arguments of all trainings.

    Raises:
        ConfigError: If a stock model is given one that only nets of ours take, or one has no place in a training.
        TextError: If a file of prompts is not of the data set's classes.
    """
    firsts = {(c.model.name, c.data.name): c for c in reversed(plan.cells())}
    for cell in {name: c for (name, _), c in firsts.items()}.values():
        arguments = {k: v for k, v in plan.arguments(cell).items() if v is not None}
        keys.check_verb("train", {k: v for k, v in arguments.items() if k in keys.KEYS})
        _check_stock(cell.model, arguments)
    for cell in firsts.values():
        _check_prompts(plan, cell)


def _check_stock(model: Model, arguments: dict[str, Any]) -> None:
    """Refuse what `ultra_dsmoe.plugin.verbs` would refuse of a stock model."""
    ours = [k for k in arguments if k in keys.KEYS and k not in keys.FOR_ANY_DETECTOR]
    if str(arguments.get("cache")).lower() == "lmdb":
        ours.append("cache")
    if ours and _is_stock(model):
        key = ours[0]
        wanted = f"a DS-MoE model wherever it is given (overrides of a stock one can say {key}: null)"
        raise ConfigError(f"overrides: {key}", wanted, f"{model.name}, which is stock")


def _is_stock(model: Model) -> bool:
    from ultralytics.nn import tasks

    if model.source.endswith(".pt"):
        try:
            load_network(Path(model.source))
        except WeightsError:  # or none that can be read
            return True
        return False
    with quiet():
        content = yaml.safe_load(model.content) if model.content else tasks.yaml_model_load(model.source)
    return not is_ours(content, vars(tasks))


def _check_prompts(plan: Plan, cell: Cell) -> None:
    given = plan.arguments(cell).get("dsmoe_prompts")
    if given is None or given in plan.files(cell):
        return
    try:
        class_prompts(cell.data.names, read_prompt_file(os.path.expandvars(given)))
    except TextError as e:
        raise TextError(f"dsmoe_prompts={given}, data {cell.data.name}: {e.argument}", e.expected, e.got) from e
