"""The folder that the host makes for a validation or a prediction: taken away again where that could not begin."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAKERS = ("val", "predict")  # the trainer knows its own folder


def absent_folders(model: Any, verb: str, arguments: dict[str, Any]) -> list[Path]:
    """Return the folder of a call's results and those above it as far as none exists yet, innermost first.

    Args:
        model: ``YOLO`` object.
        verb: Its method; ``predict`` also tracks, as the arguments then say.
        arguments: Of the call.
    """
    from ultralytics.cfg import get_cfg, get_save_dir
    from ultralytics.utils import DEFAULT_CFG_DICT

    known = {key: value for key, value in arguments.items() if key in DEFAULT_CFG_DICT}  # not those of the method alone
    try:
        folder = Path(get_save_dir(get_cfg(overrides={**model.overrides, "mode": verb, **known})))
    except Exception:  # wrong arguments: the host says the same when it comes to them, before it makes a folder
        return []
    return [place for place in (folder / "labels", folder, *folder.parents) if not place.exists()]


@contextlib.contextmanager
def nothing_left(model: Any, verb: str, arguments: dict[str, Any]) -> Iterator[None]:
    """Remove the empty folders that a failing call leaves; arguments as of `absent_folders`."""
    absent = absent_folders(model, verb, arguments) if verb in MAKERS else []
    try:
        yield
    except (Exception, KeyboardInterrupt):  # whatever its reason, it goes on as it came
        for place in absent:
            with contextlib.suppress(OSError):  # never made, or something is in it
                place.rmdir()
        raise
