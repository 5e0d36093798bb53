"""The host's ``nn.tasks``: its parser learns our layers, its restricted loading our classes, its names our scales.

The replacements alone: what they lean on is imported when a model is built or loaded, since not every program that
imports the host does.
"""

from __future__ import annotations

import functools
from typing import Any

from ultra_dsmoe.plugin import host, lookup
from ultra_dsmoe.plugin.task_table import task_of


def patch_tasks(tasks: Any) -> None:
    """Change everything that we change in the host's ``nn.tasks``."""
    lookup.patch_names(tasks)
    patch_loading(tasks)
    patch_parsing(tasks)
    patch_guessing(tasks)


def patch_loading(tasks: Any) -> None:
    """Let the host's restricted loading know our classes first, and look at files and what was loaded of ours."""
    stock = tasks.torch_safe_load
    if host.is_marked(stock):
        return
    restricts = hasattr(tasks, "_SafeLoad")  # hosts before 8.4.70 do not

    @functools.wraps(stock)
    def torch_safe_load(weight: Any, safe_only: bool | None = None) -> Any:
        from ultra_dsmoe.plugin import loading

        restricted = getattr(tasks, "SAFE_LOAD", False) if safe_only is None else safe_only

        def load(weight: Any) -> Any:
            with loading.load_errors(weight):
                if restricts and restricted:
                    from ultra_dsmoe.plugin import safeload

                    with safeload.permits(weight):
                        return stock(weight, safe_only)
                return stock(weight, safe_only)

        ckpt, file = load(loading.newest_whole(weight, load))
        if loading.is_ours(ckpt):
            loading.require_whole(file)
            check_text(ckpt, file)
        return ckpt, file

    host.replace(tasks, "torch_safe_load", host.mark(torch_safe_load), everywhere=True)


def check_text(ckpt: dict[str, Any], file: Any) -> None:
    """Refuse a checkpoint of ours whose text vectors are damaged: it would go on and find nothing.

    Raises:
        TextError: If one is not finite.
    """
    net: Any
    for net in (ckpt.get("ema"), ckpt.get("model")):
        net = getattr(net, "student_model", net)
        if task_of(net) is not None:
            net.require_finite_text(str(file))


def patch_parsing(tasks: Any) -> None:
    """Let the host's parser build YAMLs that name layers of ours; all others stay its own."""
    stock = tasks.parse_model
    if host.is_marked(stock):
        return

    @functools.wraps(stock)
    def parse_model(d: dict[str, Any], ch: int, verbose: bool = True) -> Any:
        from ultra_dsmoe.plugin.yaml_rows import is_ours

        if not is_ours(d, vars(tasks)):
            return stock(d, ch, verbose)
        from ultra_dsmoe.plugin.parser import Graph

        return Graph(tasks, stock, d, ch).build(verbose)

    host.replace(tasks, "parse_model", host.mark(parse_model), everywhere=True)


def patch_guessing(tasks: Any) -> None:
    """Let the host tell the task of a model YAML whose head is a layer of ours: that of the host's head it is made of.

    The host goes by the name of the last row, and knows a classifier under four names alone.
    """
    stock = tasks.guess_model_task
    if host.is_marked(stock):
        return

    @functools.wraps(stock)
    def guess_model_task(model: Any) -> Any:
        from ultra_dsmoe.plugin.yaml_rows import load_layers, names_of

        if isinstance(model, dict) and (names := names_of(model)) and names[-1] not in vars(tasks):
            layer = load_layers().get(names[-1])
            if layer is not None and issubclass(layer, tasks.Classify):
                return "classify"
        return stock(model)

    host.replace(tasks, "guess_model_task", host.mark(guess_model_task), everywhere=True)
