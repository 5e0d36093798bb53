"""Put a second stage behind a detector for one call: by the host's own callbacks, or a validator of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ultra_dsmoe.checks import is_number
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.plugin import keys

EVENTS = ("on_predict_postprocess_end", "on_predict_end")  # the host's, of which the verifier has methods


def pop_verifier(model: Any, given: dict[str, Any]) -> Any:
    """Take the keys of a second stage out of ``given`` and return it, opened and checked; None where none is asked for.

    Args:
        model: ``YOLO`` object of the detector.
        given: Checked keys.

    Raises:
        ConfigError: If the model is no detector, the classifier is none, or they have no class in common.
        WeightsError: If the classifier is missing or damaged.
    """
    asked = {key: given.pop(key) for key in keys.VERIFYING if key in given}
    if not asked:
        return None
    if model.task != "detect":
        raise ConfigError("dsmoe_verify", "a detector before it (task=detect)", f"task={model.task}")
    from ultra_dsmoe.evaluate.box_classifier import BoxClassifier  # late: every process with the host loads this module
    from ultra_dsmoe.evaluate.second_look import BAND, LEAST, Rule
    from ultra_dsmoe.evaluate.verifier import Verifier

    names = _names(model)
    low, high = asked.get("dsmoe_verify_band", BAND)
    rule = Rule(low, high, asked.get("dsmoe_verify_min", LEAST))
    return Verifier(BoxClassifier(Path(asked["dsmoe_verify"])), names, rule)


def _names(model: Any) -> dict[int, str]:
    """Return a detector's class names; `YOLO.names` would set up a predictor for an exported file.

    Raises:
        ConfigError: If it is a file without them.
    """
    from ultra_dsmoe.evaluate.box_classifier import named
    from ultra_dsmoe.runtime.file_metadata import read_metadata

    is_file = isinstance(model.model, (str, Path))
    names = read_metadata(Path(model.model)).get("names") if is_file else model.model.names
    if not names:
        expected = "a detector as .pt, .onnx, .engine, .torchscript or OpenVINO folder with its class names"
        raise ConfigError("dsmoe_verify", expected, str(model.model))
    return named(names)


@contextlib.contextmanager
def second_stage(model: Any, verb: str, verifier: Any, kwargs: dict[str, Any]) -> Iterator[None]:
    """Have a second stage look at the boxes of a call.

    Args:
        model: ``YOLO`` object of the detector.
        verb: Its method.
        verifier: What `pop_verifier` returned.
        kwargs: Of the call; a validation gets its validator here.

    Raises:
        ConfigError: If a validator was given that is none of a detector.
    """
    if verifier is None:
        yield
    elif verb == "val":
        kwargs["validator"] = _validator(model, verifier, kwargs)
        yield
    else:
        # First in line, so that a tracker sees what is left. Predictors of earlier calls share the model's lists.
        places = [(model.callbacks[event], getattr(verifier, event)) for event in EVENTS]
        for callbacks, own in places:
            callbacks.insert(0, own)
        try:
            yield
        finally:
            for callbacks, own in places:
                callbacks.remove(own)


def _validator(model: Any, verifier: Any, kwargs: dict[str, Any]) -> type:
    """Return the class of the host's validator, or the user's, with the second stage before its counting."""
    from ultralytics.models.yolo.detect import DetectionValidator

    from ultra_dsmoe.evaluate.verifying_validator import CONF, VerifyingValidator

    base = kwargs.get("validator") or model.task_map[model.task]["validator"]
    if not isinstance(base, type) or not issubclass(base, DetectionValidator):
        raise ConfigError("validator", "a class derived from Ultralytics' DetectionValidator", base)
    conf: Any = {**model.overrides, **kwargs}.get("conf")
    shown = float(conf) if is_number(conf) else CONF  # of what is no number the host says so
    content = {"__doc__": base.__doc__, "verifier": verifier, "shown_conf": shown}
    return type(base.__name__, (VerifyingValidator, base), content)
