"""Send our networks to our trainer and validator, and our keys to the network before a verb runs."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import isgenerator
from pathlib import Path
from typing import Any

from ultra_dsmoe.constants import FINISHED
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.model.settings import Kept, align, in_force
from ultra_dsmoe.plugin import (
    distill_choice,
    fusing,
    host,
    host_arguments,
    keys,
    reference_training,
    referencing,
    verifying,
)
from ultra_dsmoe.plugin.data_yaml import require_classes, require_images
from ultra_dsmoe.plugin.leftovers import nothing_left
from ultra_dsmoe.plugin.task_table import TASKS, Task, load, require_task, task_of, task_of_file
from ultra_dsmoe.plugin.yaml_rows import is_ours, task_of_head


def our_net(model: Any) -> Any:
    """Return the network of a ``YOLO`` object where it is ours, looking through a distillation wrapper, else None."""
    net = getattr(model, "model", None)
    net = getattr(net, "student_model", net)
    return None if task_of(net) is None else net


def net_task(net: Any) -> Task:
    """Return what the table says of a network of ours."""
    name = task_of(net)
    assert name is not None  # or it is none of ours
    return TASKS[name]


def our_map(stock: dict[str, dict[str, Any]], name: str) -> dict[str, dict[str, Any]]:
    """Return the host's task map with our classes for a task; where we have none, the host's serve."""
    return {**stock, name: {**stock[name], **TASKS[name].classes()}}


def choosing_map(stock: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the host's task map for a model that is being built: its YAML decides whose network it becomes."""
    return {name: {**roles, "model": chooser(roles["model"], name)} for name, roles in stock.items()}


def chooser(stock_class: Any, name: str) -> Any:
    """Return a stand-in for a model of the host's that builds ours from a YAML that names layers of ours.

    Args:
        stock_class: The host's class.
        name: Its task.
    """

    @functools.wraps(stock_class, updated=())
    def build(cfg: Any, *args: Any, **kwargs: Any) -> Any:
        from ultralytics.nn import tasks

        if not is_ours(cfg, vars(tasks)):
            return stock_class(cfg, *args, **kwargs)
        require_task(task_of_head(cfg, vars(tasks)), name, cfg)
        cls = load(TASKS[name].model) if name in TASKS else stock_class  # a stock head above layers of ours
        return cls(cfg, *args, **kwargs)

    return build


def required_net(model: Any, given: dict[str, Any]) -> Any:
    """Return the network of ``model``, which must be ours where one of our keys is given.

    Raises:
        ConfigError: If it is a stock model or an exported file.
    """
    net = our_net(model)
    if net is None and given:
        name = getattr(model, "model_name", None) or type(model).__name__
        raise ConfigError(next(iter(given)), "a DS-MoE model as a .pt file", f"{name}")
    return net


def kept_numbers(
    model: Any, net: Any, given: dict[str, Any], kwargs: dict[str, Any], references: Any
) -> list[tuple[int, ...]]:
    """Return the experts that static execution keeps in a call, one tuple per gate."""
    from ultra_dsmoe.export.static_mode import KeptExperts

    with referencing.in_force(references):
        return KeptExperts(model, net, given, kwargs).numbers()


def wrap_verb(stock: Any, verb: str) -> Any:
    """Wrap a method of the host's ``Model`` so that our keys are in force in the network while it runs."""

    @functools.wraps(stock)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = keys.pop_keys(kwargs)
        keys.check_verb(verb, given)
        net = required_net(self, {k: v for k, v in given.items() if k not in keys.FOR_ANY_DETECTOR})
        if net is not None:
            keys.check_task(net_task(net), given)
            host_arguments.check(verb, kwargs)
            require_classes(kwargs.get("data"))
        source = args[0] if args else kwargs.get("source")
        references = referencing.of_call(self, verb, given, kwargs, source)
        if verb == "export" and net is not None:
            distill_choice.adopt_student(self)
            from ultra_dsmoe.export import exporting  # late, as below: every process with the host loads this module

            with referencing.in_force(references, verb):
                return exporting.export(self, net, functools.partial(stock, self, *args), given, kwargs)
        verifier = verifying.pop_verifier(self, given)
        if verifier is not None and verb == "val" and args:
            args, kwargs["validator"] = args[1:], args[0]
        fusing.remember(self, ours=net is not None and net is self.model)
        kept = functools.partial(kept_numbers, self, net, given, kwargs, references)
        with in_force(net, given, kept), referencing.in_force(references, verb):
            align(predictor_net(self), net)
            if net is None and verifier is None and references is None:
                return stock(self, *args, **kwargs)
            if net is not None and verb == "val":
                from ultra_dsmoe.export.static_mode import data_of

                require_images(data_of(self, net, kwargs), self.overrides.get("data"), kwargs.get("split"))
            with _around(self, verb, verifier, kwargs):
                result = stock(self, *args, **kwargs)
        if not isgenerator(result):
            return result
        result = referencing.streamed(references, result)
        return _streamed(self, net, given, kept, _around(self, verb, verifier, kwargs), result)

    return host.mark(call)


@contextmanager
def _around(model: Any, verb: str, verifier: Any, kwargs: dict[str, Any]) -> Iterator[None]:
    """Leave nothing of a failing call behind, and have a second stage look at the boxes where there is one."""
    with nothing_left(model, verb, kwargs), verifying.second_stage(model, verb, verifier, kwargs):
        yield


def _streamed(
    model: Any,
    net: Any,
    given: dict[str, Any],
    kept: Kept,
    around: AbstractContextManager[None],
    results: Iterator[Any],
) -> Iterator[Any]:
    """Yield the results of a streaming call, with our keys in force while they are computed."""
    with around, in_force(net, given, kept) if given else nullcontext():
        if given:
            align(predictor_net(model), net)
        yield from results


def predictor_net(model: Any) -> Any:
    """Return the network that a ``YOLO`` object's predictor holds since an earlier call, where it is ours."""
    return our_net(getattr(getattr(model, "predictor", None), "model", None))


def wrap_train(stock: Any) -> Any:
    """Wrap ``Model.train``: our trainer reads the keys itself, a stock model can only have that of the distiller."""

    @functools.wraps(stock)
    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        if args:
            args, kwargs["trainer"] = args[1:], args[0]
        fusing.restore(self)
        given = keys.pop_keys(kwargs)
        file = _read_cfg(kwargs.get("cfg"))
        asked = {**file, **kwargs}
        all_given = {**keys.pop_keys(file), **given}
        keys.check_verb("train", all_given)
        task = task_of(our_net(self))
        if reference_training.is_wanted(self, task == "detect", all_given, asked):
            if task is None:  # a stock net becomes one of ours
                kwargs["trainer"] = kwargs.get("trainer") or load(TASKS["detect"].trainer)
            task = "detect"
        if task is None:
            required_net(self, {k: v for k, v in all_given.items() if k not in keys.FOR_ANY_DETECTOR})
        ours = task is not None
        if task is not None:
            keys.check_task(TASKS[task], all_given)
        if str({**file, **kwargs}.get("cache")).lower() == "lmdb" and task != "detect":
            raise ConfigError("cache", "ram or disk for any other model than a DS-MoE detector", "lmdb")
        if task is not None:
            _require_unfinished(self, {**file, **kwargs}.get("resume"))
            if kwargs.get("trainer"):
                kwargs["trainer"] = with_ours(kwargs["trainer"], load(TASKS[task].trainer))
            _check_files(self, {**file, **kwargs}, kwargs)
        if "dsmoe_prompts" in given:
            from ultra_dsmoe.text.prompts import read_prompt_file

            read_prompt_file(given["dsmoe_prompts"])  # before a run folder exists
        if trainer := distill_choice.trainer_for(self, ours, all_given, {**file, **kwargs}):
            if kwargs.get("trainer"):
                raise ConfigError("dsmoe_kd", "the trainer that it brings, without another", "a trainer of your own")
            kwargs["trainer"] = trainer
        kwargs |= distill_choice.with_teacher(self, ours, kwargs.get("trainer"), all_given, asked)
        return stock(self, *args, **kwargs, **given)

    return host.mark(train)


def _require_unfinished(model: Any, resume: Any) -> None:
    """Refuse to resume a finished training: the host would begin another one, on its default data if none is named.

    Raises:
        ConfigError: If the checkpoint that was loaded is a finished one's.
    """
    ckpt = getattr(model, "ckpt", None)
    if resume is True and isinstance(ckpt, dict) and ckpt.get("epoch") == FINISHED:
        raise ConfigError(
            "resume", "the last.pt of a training that was interrupted", f"{model.ckpt_path}, a finished one"
        )


def with_ours(trainer: Any, ours: Any) -> Any:
    """Return a user's trainer class with ours below it, so that ``super()`` in its methods is ours.

    Raises:
        ConfigError: If it is no class that trains the same task.
    """
    from ultralytics.engine.trainer import BaseTrainer

    if not isinstance(trainer, type) or not issubclass(trainer, BaseTrainer):
        raise ConfigError("trainer", "a class derived from Ultralytics' DetectionTrainer", trainer)
    if issubclass(ours, trainer):  # one of the host's that ours is made of
        return ours
    if issubclass(trainer, ours):
        return trainer
    try:
        return type(trainer.__name__, (trainer, ours), {"__doc__": trainer.__doc__, "__module__": __name__})
    except TypeError as e:  # its bases stand in another order
        raise ConfigError("trainer", "a class derived from DetectionTrainer or DSMoETrainer alone", trainer) from e


def _check_files(model: Any, arguments: dict[str, Any], kwargs: dict[str, Any]) -> None:
    """Check the files that a training of ours names, before a run folder exists.

    Weights of an encoder go on in a form that hosts leave alone and our own trainer understands.

    Raises:
        DSMoEError: If data YAML or weights cannot be used.
    """
    host_arguments.check("train", arguments)
    if arguments.get("resume"):
        return
    require_classes(arguments.get("data"))
    given = arguments.get("pretrained")
    if given is not None and not isinstance(given, (bool, str, Path)):
        raise ConfigError("pretrained", "True, False or a checkpoint", given)
    if isinstance(given, (str, Path)):
        from ultra_dsmoe.model import pretrained

        kwargs["pretrained"] = pretrained.check(our_net(model), given)


def _read_cfg(cfg: Any) -> dict[str, Any]:
    """Return the content of a file given as ``cfg=``, which the host reads only later and for any model."""
    if not cfg:
        return {}
    from ultralytics.utils import YAML, checks

    return YAML.load(checks.check_yaml(cfg))


def patch_yolo(module: Any) -> None:
    """Extend the host's task map and wrap the verbs of its ``Model``."""
    yolo, model = module.YOLO, module.Model
    stock_map = vars(yolo)["task_map"]
    if not host.is_marked(stock_map):

        def task_map(self: Any) -> dict[str, dict[str, Any]]:
            stock = stock_map.fget(self)
            if (task := task_of(our_net(self))) is not None:
                return our_map(stock, task)
            if distill_choice.is_wrapped(self.model):  # a stock student whose training goes on
                return distill_choice.wrapped_map(stock)
            if self.model is None:  # being built from a YAML
                return choosing_map(stock)
            if (task := task_of_file(self.model, getattr(self, "task", None))) is not None:
                return our_map(stock, task)
            return stock

        host.replace(yolo, "task_map", property(host.mark(task_map), doc=stock_map.__doc__))
    if not host.is_marked(model.val):
        for verb in ("val", "predict", "export", "benchmark"):
            host.replace(model, verb, wrap_verb(getattr(model, verb), verb))
        host.replace(model, "train", wrap_train(model.train))
        for verb in ("load", "reset_weights"):
            host.replace(model, verb, fusing.wrap_restoring(getattr(model, verb)))
        host.replace(model, "save", fusing.wrap_save(model.save))
