"""Open what the words of a command name, and find out where its results may go, before any work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.evaluate.evaluation import NEEDS, Evaluation
from ultra_dsmoe.files import can_write


def opened(options: dict[str, Any], name: str, needs: str = NEEDS) -> tuple[Evaluation, Path]:
    """Return the checkpoint with its data, and the folder of the results, which is not created.

    Args:
        options: Checked keys, see `ultra_dsmoe.commands.arguments.evaluation_options`.
        name: Folder of the results in the checkpoint's run folder, unless ``out`` names another.
        needs: What the network must have, for the error.

    Raises:
        DSMoEError: If checkpoint, data or folder cannot be used.
    """
    evaluation = Evaluation(options, needs)
    return evaluation, output_folder(evaluation.path, options.get("out"), name)


def output_folder(checkpoint: Path, given: str | None, name: str) -> Path:
    """Return where results go, checked but not created: ``given``, or ``name`` in the checkpoint's run folder.

    Raises:
        ConfigError: If something other than a folder is in the way or it cannot be written.
    """
    run = checkpoint.parent.parent if checkpoint.parent.name == "weights" else checkpoint.parent
    folder = Path(given) if given else run / name
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not nearest.is_dir() or not can_write(nearest):
        raise ConfigError("out", "a folder that can be written", str(folder))
    return folder


def output_file(name: str, suffixes: tuple[str, ...]) -> Path:
    """Return a file that can be written, checked but not touched.

    Raises:
        ConfigError: If it ends otherwise, is a folder, or lies where nothing can be written.
    """
    path = Path(name)
    if path.suffix not in suffixes or path.is_dir():
        raise ConfigError("out", f"a file that ends in {' or '.join(suffixes)}", name)
    if not path.absolute().parent.is_dir() or not can_write(path.absolute().parent):
        raise ConfigError("out", "a file in a folder that exists and can be written", name)
    return path


def progress(what: str) -> Callable[[str], None]:
    """Return a function that prints a step of ``what`` on stderr, apart from the results."""
    return lambda line: print(f"{what} {line}", file=sys.stderr, flush=True)


def print_notes(notes: list[str], files: list[Path]) -> None:
    """Print what there is to say, and the files that were written."""
    print(*notes, *(f"written: {path}" for path in files), sep="\n")
