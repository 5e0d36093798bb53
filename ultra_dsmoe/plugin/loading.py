"""Checkpoints of ours as they are loaded: whole, of a version that we know, and of a run the newest that is whole."""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ultra_dsmoe.errors import WeightsError

PACKAGE = "ultra_dsmoe"
LACKING = re.compile(rf"Can't get attribute '(\w+)' on <module '({PACKAGE}[\w.]*)'")  # what unpickling says
Load = Callable[[Any], tuple[dict[str, Any], Any]]


def newer(file: Any, name: str) -> WeightsError:
    """Return the error for a checkpoint that names something of ours that this version has not."""
    from ultra_dsmoe import __version__

    expected = f"a checkpoint that ultra-dsmoe {__version__} can read"
    return WeightsError(str(file), expected, f"one of a newer version, with {name}; upgrade ultra-dsmoe")


class _Lacking:
    """Meta path finder behind all others: a module of ours that none of them has is one of a newer version.

    Without it the host offers to install a package of the module's name.
    """

    def __init__(self, file: Any) -> None:
        self.file = file

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raise for modules of ours, pass on all others."""
        if name.startswith(f"{PACKAGE}."):
            raise newer(self.file, name)


@contextmanager
def load_errors(weight: Any) -> Iterator[None]:
    """Turn what loading a checkpoint of ours can end in into one line, and leave all other errors as they are.

    Raises:
        WeightsError: If the file is of a newer version, or no longer what was written.
    """
    finder = _Lacking(weight)
    sys.meta_path.append(finder)  # type: ignore[arg-type]  # an object with a find_spec is a finder
    try:
        yield
    except Exception as e:  # whatever damaged bytes lead to, a module's name among them
        if names_ours(weight):
            require_whole(weight)
        if found := LACKING.search(str(e)):
            raise newer(weight, f"{found[2]}.{found[1]}") from e
        raise
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type]


def is_ours(ckpt: dict[str, Any]) -> bool:
    """Whether a checkpoint holds a network, or a wrapper of one, that is ours."""
    return any(type(ckpt.get(key)).__module__.startswith(f"{PACKAGE}.") for key in ("ema", "model"))


def names_ours(weight: Any) -> bool:
    """Whether the bytes of a file, which may be damaged, speak of this package, or another of its run's files does."""
    from ultra_dsmoe.train.generations import PREVIOUS

    path = Path(str(weight).strip())
    if not path.is_file():
        return False
    return path.with_name(PREVIOUS).exists() or f"{PACKAGE}.".encode() in path.read_bytes()


def require_whole(file: Any) -> None:
    """Refuse a file that is not what was written.

    Raises:
        WeightsError: If it is damaged.
    """
    from ultra_dsmoe.train.generations import flaw

    if problem := flaw(str(file).strip()):
        raise WeightsError(str(file), "a checkpoint as it was written", problem)


def newest_whole(weight: Any, load: Load) -> Any:
    """Return the file that stands for the ``last.pt`` of a run of ours: that one, or the newest that is whole.

    Args:
        weight: What is to be loaded; anything but a damaged or missing ``last.pt`` is returned as it is.
        load: Loads a checkpoint.
    """
    path = Path(str(weight).strip())
    if path.name != "last.pt":
        return weight
    from ultra_dsmoe.train.generations import BEST, PREVIOUS, flaw

    kept = path.with_name(PREVIOUS)
    if not kept.exists() and (not path.with_name(BEST).exists() or (path.exists() and zipfile.is_zipfile(path))):
        return weight
    problem = flaw(path)
    if problem is None:
        return weight
    whole: dict[int, Path] = {}
    for other in (path.with_name(BEST), kept):
        if flaw(other) is None:
            ckpt, _ = load(other)
            if ckpt.get("optimizer") is not None and (kept.exists() or is_ours(ckpt)):
                whole[ckpt["epoch"]] = other
    if not whole:
        return weight
    from ultralytics.utils import LOGGER

    newest = whole[max(whole)]
    LOGGER.warning(f"{path} is {problem}: {newest.name} of epoch {max(whole) + 1} takes its place")
    return newest
