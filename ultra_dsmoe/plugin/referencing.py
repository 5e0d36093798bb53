"""The known-good pictures of a call of the host's ``Model``: which they are, and in force while it works."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ultra_dsmoe.plugin.task_table import has_mark, task_of
from ultra_dsmoe.runtime.reference_entry import KEY

CALLERS = ("export", "benchmark")  # verbs that validate and predict with files that they have made
_around: ContextVar[tuple[str, Any]] = ContextVar("call", default=("", None))


def wants_references(model: Any) -> bool:
    """Whether a ``YOLO`` object holds a network, or the path of a file, that compares with known-good pictures."""
    held = getattr(model, "model", None)
    held = getattr(held, "student_model", held)
    if isinstance(held, (str, Path)):
        return has_mark(held, KEY)
    if task_of(held) != "detect":
        return False
    from ultra_dsmoe.model.reference_row import has_reference  # late: every process with the host loads this module

    return has_reference(held)


def of_call(model: Any, verb: str, given: dict[str, Any], kwargs: dict[str, Any], source: Any = None) -> Any:
    """Take the key out of ``given`` and return the references of a call, None for a detector that takes none.

    Args:
        model: ``YOLO`` object.
        verb: Its method.
        given: Checked keys.
        kwargs: The host's arguments.
        source: Of a prediction; a tensor has its references behind its images.

    Raises:
        DSMoEError: If the detector compares and has nothing to compare with, or the other way round.
    """
    is_given, value = KEY in given, given.pop(KEY, None)
    if not wants_references(model):
        if is_given:
            from ultra_dsmoe.data.reference.spec import is_nothing
            from ultra_dsmoe.evaluate.reference_choice import without_row

            if is_nothing(value):
                return None
            raise without_row(str(getattr(model, "model_name", None) or model.model), value)
        return None
    from ultra_dsmoe.evaluate import reference_choice

    held = getattr(model.model, "student_model", model.model)
    entry = reference_choice.entry_of(held)
    assert entry is not None  # or it would want none
    caller, around = _around.get()
    if not is_given and around is not None and around.channels == entry.channels:
        # The host's benchmark predicts a picture of its own with every file that it exports.
        is_foreign = caller == "benchmark" and verb == "predict"
        return reference_choice.NoReferences(entry.channels) if is_foreign else around
    source_of_data = _source(model, held, kwargs)
    found = reference_choice.choose(entry, value, source_of_data, reference_choice.spec_of_net(held))
    if verb == "predict" and not is_given and found is not None and not getattr(source_of_data, "named", False):
        _say_whose(found)
    if found is None and verb != "export" and not _is_tensor(source):  # what an export needs it knows itself
        raise reference_choice.missing(str(getattr(model, "ckpt_path", None) or model.model_name))
    return found


def _is_tensor(source: Any) -> bool:
    """Whether the source of a prediction is a tensor; torch need not be there."""
    return type(source).__module__.partition(".")[0] == "torch"


def _source(model: Any, held: Any, kwargs: dict[str, Any]) -> Any:
    """Return the data set of a call, or else the one that the checkpoint remembers, as far as it is on this disk."""
    from ultra_dsmoe.data.source import DataSource

    own = getattr(held, "args", None)
    own = own if isinstance(own, dict) else {}
    return DataSource.choose(kwargs.get("data"), (model.overrides.get("data"), own.get("data")))


@contextlib.contextmanager
def in_force(references: Any, verb: str = "") -> Iterator[None]:
    """Let the host's loaders find the references inside the block; nothing changes for None.

    Args:
        references: Of the call.
        verb: Its method; calls that an export or a benchmark makes have the same references.
    """
    if references is None:
        yield
        return
    from ultra_dsmoe.data.reference import in_force as force

    token = _around.set((verb, references)) if verb in CALLERS else None
    try:
        with force.in_force(references):
            yield
    finally:
        if token is not None:
            _around.reset(token)


def streamed(references: Any, results: Iterator[Any]) -> Iterator[Any]:
    """Yield the results of a streaming call; references are in force while they are computed, not in between."""
    if references is None:
        yield from results
        return
    while True:
        with in_force(references):
            try:
                result = next(results)
            except StopIteration:
                return
        yield result


def _say_whose(found: Any) -> None:
    """Say which references a prediction takes where the user named none."""
    from ultralytics.utils import LOGGER

    spec = found.spec
    if place := spec.folder or spec.csv or spec.file:
        LOGGER.info(f"references: those of the training, {place} (others: {KEY}=)")
