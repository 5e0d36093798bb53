"""Whether the plugin's arguments suit a study's models and data sets, asked before anything runs.

Else only the trainings would find out, one after the other, and each cell would fail by itself.
"""

from __future__ import annotations

import os
from typing import Any

import yaml

from ultra_dsmoe.causes import reading
from ultra_dsmoe.errors import ConfigError, TextError, WeightsError
from ultra_dsmoe.evaluate.evaluation import quiet
from ultra_dsmoe.plugin import keys
from ultra_dsmoe.plugin.task_table import TASKS, task_of
from ultra_dsmoe.plugin.yaml_rows import is_ours
from ultra_dsmoe.text.prompts import class_prompts, read_prompt_file

from .models import Model
from .plan import Cell, Plan
from .task import CLASSIFY


def check_arguments(plan: Plan) -> None:
    """Check the plugin's arguments of all trainings.

    Raises:
        ConfigError: If a stock model is given one that only nets of ours take, or one has no place in a training.
        TextError: If a file of prompts is not of the data set's classes.
    """
    firsts = {(c.model.name, c.data.name): c for c in reversed(plan.cells()) if not c.model.control}
    for cell in {name: c for (name, _), c in firsts.items()}.values():
        arguments = {k: v for k, v in plan.arguments(cell).items() if v is not None}
        keys.check_verb("train", {k: v for k, v in arguments.items() if k in keys.KEYS})
        _check_stock(cell.model, arguments)
        if plan.task is CLASSIFY:
            _check_classifier(cell.model)
            keys.check_task(TASKS[CLASSIFY.name], {k: v for k, v in arguments.items() if k in keys.KEYS})
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
    from ultralytics import YOLO
    from ultralytics.nn import tasks

    if model.source.endswith(".pt"):
        try:
            with quiet(), reading("model", "a readable checkpoint", WeightsError, model.source):
                return task_of(YOLO(model.source).model) is None
        except WeightsError:  # none that can be read
            return True
    return not is_ours(_content(model), vars(tasks))


def _content(model: Model) -> Any:
    from ultralytics.nn import tasks

    with quiet():
        return yaml.safe_load(model.content) if model.content else tasks.yaml_model_load(model.source)


def _check_classifier(model: Model) -> None:
    """Refuse a detector among classifiers, which each of its trainings would find out."""
    from ultralytics.nn.tasks import guess_model_task

    if not model.source.endswith(".pt") and (task := guess_model_task(_content(model))) != CLASSIFY.name:
        raise ConfigError("models", "classifiers, since the study says task: classify", f"{model.name} ({task})")


def _check_prompts(plan: Plan, cell: Cell) -> None:
    given = plan.arguments(cell).get("dsmoe_prompts")
    if given is None or given in plan.files(cell):
        return
    try:
        class_prompts(cell.data.names, read_prompt_file(os.path.expandvars(given)))
    except TextError as e:
        raise TextError(f"dsmoe_prompts={given}, data {cell.data.name}: {e.argument}", e.expected, e.got) from e
