"""Which trainer a training with a teacher gets, and what is refused before its run folder exists."""

from __future__ import annotations

import sys
from typing import Any

from ultra_dsmoe.constants import AUTO_TEACHER
from ultra_dsmoe.errors import ConfigError


def is_wrapped(net: Any) -> bool:
    """Whether a network is the wrapper of our distiller, as checkpoints of interrupted trainings hold it."""
    module = sys.modules.get("ultra_dsmoe.train.distill_wrapper")  # one exists only where this was imported
    return module is not None and isinstance(net, module.FeatureDistillation)


def adopt_student(model: Any) -> None:
    """Let a ``YOLO`` object that holds an unfinished distillation hold its student, which is what can be exported."""
    wrapper = model.model
    if is_wrapped(wrapper):
        student = wrapper.student_model
        for name in ("args", "names", "task", "pt_path"):  # what loading a checkpoint leaves on the wrapper
            setattr(student, name, getattr(wrapper, name, None))
        model.model = student


def wrapped_map(stock: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the host's task map with the trainer that knows our distiller."""
    from ultra_dsmoe.train.distill_trainer import DistillTrainer

    return {**stock, "detect": {**stock["detect"], "trainer": DistillTrainer}}


def trainer_for(model: Any, ours: bool, given: dict[str, Any], arguments: dict[str, Any]) -> Any:
    """Check a training's ``dsmoe_kd`` and teacher; return the trainer that a stock student needs.

    Args:
        model: The host's ``YOLO`` object.
        ours: Whether its network is one of ours.
        given: Our keys, checked.
        arguments: The host's.

    Returns:
        A trainer class, which for ``dsmoe_kd=host`` only compares the classes; None where the host's choice is right:
        for nets of ours, where no ``dsmoe_kd`` is given, and for its own distiller on other tasks than detection.

    Raises:
        ConfigError: If the host cannot distil, no teacher is given, or the model is no detector.
        WeightsError: If the teacher's file does not exist.
    """
    kd, weights = given.get("dsmoe_kd"), arguments.get("distill_model")
    if kd is None and not (ours and weights):
        return None
    _check_host("distill_model" if kd is None else "dsmoe_kd")
    if not weights:
        if arguments.get("resume"):  # the checkpoint has both
            return None
        expected = "this key beside distill_model=teacher.pt or distill_model=auto"
        raise ConfigError("dsmoe_kd", expected, f"dsmoe_kd={kd} without it")
    from ultra_dsmoe.distill.config import resolve
    from ultra_dsmoe.train.teacher import check_file

    config = resolve(kd) if kd is not None else None
    if weights != AUTO_TEACHER:
        check_file(weights)
    if ours:
        return None
    if not is_stock_detector(model):
        if config is None:
            return None
        raise ConfigError("dsmoe_kd", "a YOLO detector as student", f"{getattr(model, 'model_name', model)}")
    from ultra_dsmoe.train.distill_trainer import DistillTrainer

    return DistillTrainer


def with_teacher(
    model: Any, ours: bool, trainer: Any, given: dict[str, Any], arguments: dict[str, Any]
) -> dict[str, Any]:
    """Return what a training's arguments become with ``distill_model=auto``, once its teacher is trained.

    Args:
        model: The host's ``YOLO`` object.
        ours: Whether its network is one of ours.
        trainer: Trainer class that will train it; None where the host's choice is right.
        given: Our keys, checked.
        arguments: The host's, as they were given.

    Raises:
        ConfigError: If our distiller is not asked for, or there are several data sets.
    """
    if arguments.get("distill_model") != AUTO_TEACHER or arguments.get("resume"):
        return {}
    if not ours and given.get("dsmoe_kd") is None:  # a call for the host's distiller, which takes it for a file
        _check_host("distill_model")
        raise ConfigError("distill_model", "auto beside dsmoe_kd, such as dsmoe_kd=self", "auto without it")
    from ultra_dsmoe.plugin.auto_teacher import trained_teacher

    return {"distill_model": trained_teacher(model, {**arguments, **given}, trainer)}


def _check_host(key: str) -> None:
    """Refuse a host that has no ``distill_model=``."""
    from ultralytics import __version__
    from ultralytics.utils import DEFAULT_CFG_DICT

    if "distill_model" not in DEFAULT_CFG_DICT:
        raise ConfigError(key, "Ultralytics 8.4.80 or newer, which has distill_model=", __version__)


def is_stock_detector(model: Any) -> bool:
    """Whether a ``YOLO`` object holds a detector that the host's detection trainer trains."""
    from ultralytics.models import YOLO
    from ultralytics.nn.modules import Detect

    net = getattr(model.model, "student_model", model.model)
    is_net = isinstance(model, YOLO) and model.task == "detect" and hasattr(net, "model")  # else a file's path
    return is_net and isinstance(net.model[-1], Detect)
