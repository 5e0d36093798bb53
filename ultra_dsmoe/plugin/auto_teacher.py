"""``distill_model=auto``: the student's own net, trained first with half of the epochs, becomes its teacher.

It has a run folder of its own beside the student's, NAME-teacher. Given once more, the same command goes on with a
teacher that was interrupted, and uses one that is finished again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.files import whole_file

SUFFIX = "-teacher"  # of the run folder's name
RECORD = "auto-teacher.json"  # in it: what it was trained with
# Of the student's arguments those that are given anew, or not at all.
STUDENTS = ("model", "task", "mode", "cfg", "distill_model", "dsmoe_kd", "resume", "save_dir")
# What a teacher may differ in and still be the one that is wanted: where it runs, and what is shown of it.
BESIDE = ("project", "name", "exist_ok", "device", "workers", "cache", "plots", "verbose", "val", "save_period")


def trained_teacher(model: Any, arguments: dict[str, Any], trainer: Any) -> str:
    """Return the checkpoint of the teacher that a training with ``distill_model=auto`` needs, trained where it is not.

    The process that a user starts comes here once, before the student's run folder exists and before there are workers.

    Args:
        model: The student's ``YOLO`` object, which is left as it is.
        arguments: All that was given for the student's training, keys of ours and the content of ``cfg`` among them.
        trainer: Trainer class of the student; None where the host knows it.

    Raises:
        ConfigError: If there are several data sets.
    """
    from ultralytics.utils import LOGGER

    if isinstance(arguments.get("data"), (list, tuple)):
        raise ConfigError("distill_model", "a teacher's checkpoint, or auto with one data set", "auto with several")
    call, folder = _call(model, arguments, trainer)
    identity = _identity(model, call)
    with _own_folder(folder, identity) as place:
        weights = place / "weights"
        epoch = _epoch(weights)
        if epoch is not None and not 0 <= epoch < call["epochs"] - 1:
            LOGGER.info(f"distill_model=auto: the teacher in {place} is finished, used again")
        elif epoch is not None:
            LOGGER.info(f"distill_model=auto: goes on training the teacher in {place}")
            resumed: Any = type(model)(str(weights / "last.pt"))
            resumed.train(resume=True, **{k: call[k] for k in ("trainer", "device") if k in call})
        else:
            length = f"time ({call['time']:g} hours)" if call.get("time") else f"epochs ({call['epochs']})"
            LOGGER.info(f"distill_model=auto: trains the teacher first, with half of the {length}, in {place}")
            fresh: Any = type(model)(model.overrides["model"], task=model.task)
            fresh.overrides = dict(model.overrides)
            fresh.train(**{**call, "project": str(place.parent), "name": place.name, "exist_ok": True})
        best = weights / "best.pt"
        return str(best if best.exists() else weights / "last.pt")


def _call(model: Any, arguments: dict[str, Any], trainer: Any) -> tuple[dict[str, Any], Path]:
    """Return the arguments of the teacher's training and the folder that it belongs in."""
    from ultralytics.cfg import get_cfg, get_save_dir

    given = {k: v for k, v in arguments.items() if k not in ("cfg", "trainer", "model", "task", "mode")}
    settled = get_cfg(overrides={**model.overrides, **given, "mode": "train", "task": model.task})
    settled.exist_ok = True  # NAME, and not NAME-2 of a second student: the same command finds its teacher
    student = Path(get_save_dir(settled))
    call = {k: v for k, v in arguments.items() if k not in STUDENTS}
    call["epochs"] = math.ceil(settled.epochs / 2)
    if settled.time:
        call["time"] = settled.time / 2
    if trainer is not None:
        call["trainer"] = trainer
    return call, student.with_name(f"{student.name}{SUFFIX}")


def _identity(model: Any, call: dict[str, Any]) -> dict[str, str]:
    """Return what tells one teacher from another, as text: arguments, and the net that they are for."""
    net = json.dumps(getattr(model.model, "yaml", None), sort_keys=True, default=str)
    about = {"model": model.overrides["model"], "net": hashlib.sha256(net.encode()).hexdigest()}
    return {name: str(value) for name, value in {**call, **about}.items() if name not in BESIDE}


@contextmanager
def _own_folder(first: Path, identity: dict[str, str]) -> Iterator[Path]:
    """Give the folder of this teacher: one that it has begun, else a new one, which nobody else works in.

    A folder that was made here and has no weights in the end is taken away again.

    Args:
        first: Folder to try first; those behind it have a number, as the host numbers runs.
        identity: What it is trained with.
    """
    absent = [place for place in first.parents if not place.exists()]
    for number in count(1):
        place = first if number == 1 else first.with_name(f"{first.name}{number}")
        made = _make(place)
        if not made and _record(place) != identity:
            continue
        with _alone(place) as alone:
            if not alone:
                continue
            try:
                if made:
                    with whole_file(place / RECORD) as part:
                        part.write_text(json.dumps(identity, indent=1))
                yield place
            finally:
                if made and not any((place / "weights").glob("*")):
                    shutil.rmtree(place, ignore_errors=True)
                    for above in absent:
                        with suppress(OSError):  # something is in it
                            above.rmdir()
            return


def _make(place: Path) -> bool:
    """Make a folder and say whether it was not there."""
    try:
        place.mkdir(parents=True)
    except FileExistsError:
        return False
    except OSError as e:
        raise DataError(str(place), "a folder that can be made", e.strerror or type(e).__name__) from e
    return True


def _record(place: Path) -> Any:
    """Return what the teacher in a folder was trained with; None where that is no folder of a teacher."""
    try:
        return json.loads((place / RECORD).read_text())
    except (OSError, ValueError):
        return None


@contextmanager
def _alone(place: Path) -> Iterator[bool]:
    """Tell whether no other process trains in a folder, and keep others away meanwhile.

    The lock is the system's and on the folder itself: it leaves no file and ends with the process, however that ends.
    Windows has no such lock and does without.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    handle = os.open(place, os.O_RDONLY)
    try:
        alone = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        except OSError:  # a disk that knows no locks
            pass
        yield alone
    finally:
        os.close(handle)


def _epoch(weights: Path) -> int | None:
    """Return the epoch of the last checkpoint in a folder, -1 of a finished training, None where there is none."""
    from ultralytics.nn.tasks import load_checkpoint

    from ultra_dsmoe.train.generations import LAST, PREVIOUS, flaw

    if flaw(weights / LAST) and not (weights / PREVIOUS).is_file():
        return None
    epoch = load_checkpoint(str(weights / LAST))[1].get("epoch")
    return None if epoch is None else int(epoch)
