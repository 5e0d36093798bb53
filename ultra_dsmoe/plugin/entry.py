"""The command line: what a user caused ends it with one line and exit code 1 where something of ours is in play."""

from __future__ import annotations

import functools
import os
import re
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ultra_dsmoe.errors import ConfigError, DSMoEError
from ultra_dsmoe.plugin import host, lookup

# What a file of ours has in it: checkpoints and their halves, exported files, a run's arguments, model YAMLs.
MARKS = rb"ultra_dsmoe|dsmoe_|\bdsmoe:|dsmoe\S*\.(?:yaml|pt)|[st]model\S*\.yaml|DualAttentionDetect|DecoupledDetect"
CHECKPOINT, RUN = ".pt", "args.yaml"


def host_error(words: list[str]) -> DSMoEError | None:
    """Return the error of a command that names something of ours on a host that we do not know, else None.

    Args:
        words: The command's words.
    """
    problem = host.problem()
    if problem is None or not names_ours(words, inside=False):
        return None
    from ultralytics import __version__

    return ConfigError("ultralytics", "a version that this ultra-dsmoe knows", f"{__version__}, {problem}")


def names_ours(words: list[str], inside: bool = True) -> bool:
    """Whether a command's words name a key, a packaged YAML or a file of ours.

    Args:
        words: The command's words.
        inside: Whether to look into the files that they name.
    """
    pairs = [word.partition("=") for word in words]
    if any(key.startswith("dsmoe_") for key, _, _ in pairs):
        return True
    values = [value for _, _, value in pairs if value]
    yamls = [os.path.basename(value) for value in values if value.endswith((".yaml", ".yml"))]
    if any(lookup.packaged(other) for file in yamls for other in lookup.spellings(file)):
        return True
    return inside and any(map(_holds_ours, values))


def _holds_ours(value: str) -> bool:
    """Whether a file, or one of an exported folder, is ours; a checkpoint also by the run that it lies in.

    A checkpoint without a byte could be anybody's: it counts as ours, since nothing tells that it is not.
    """
    path = Path(value)
    try:
        places = [path, *(path.parent.parent.glob(RUN) if path.suffix == CHECKPOINT else path.glob("*.yaml"))]
        return any(
            _is_marked(place) if place.stat().st_size else place.suffix == CHECKPOINT
            for place in places
            if place.is_file()
        )
    except OSError:  # a name too long for a file, or one that may not be read: the command's own error says so
        return False


def _is_marked(file: Path) -> bool:
    import mmap  # late, as our layers: only for a command that failed

    from ultra_dsmoe.plugin.yaml_rows import load_layers

    layers = "|".join(load_layers()).encode() if file.suffix in (".yaml", ".yml") else None
    with file.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
        marks = rb"%s|(?m:\b(?:%s)(?:,|$))" % (MARKS, layers) if layers else MARKS
        return re.search(marks, content) is not None


def has_net(error: BaseException) -> bool:
    """Whether the host's command line held a network of ours when ``error`` came."""
    from ultra_dsmoe.plugin.verbs import our_net  # late: it belongs to a host module that may not be there yet

    entry = error.__traceback__
    while entry is not None:
        if entry.tb_frame.f_code.co_name == "entrypoint" and our_net(entry.tb_frame.f_locals.get("model")) is not None:
            return True
        entry = entry.tb_next
    return False


def one_line_errors(words: list[str] | None = None, own: bool = False) -> AbstractContextManager[None]:
    """Turn what a user caused into one line on stderr and exit code 1.

    Errors of ours always; what the host says, where the command names something of ours, or runs a network of ours. So
    does Ctrl-C end there, with the shell's code for it.

    Args:
        words: The command's words; those of the process if left out.
        own: Whether the command is ours.
    """
    from ultra_dsmoe import causes  # late: not every program that imports the host is its command line

    words = sys.argv[1:] if words is None else words

    def ours(error: BaseException) -> bool:
        return own or names_ours(words) or has_net(error)

    def find(error: BaseException) -> DSMoEError | None:
        if found := causes.user_error(error):
            return found
        if found := host_error(words):
            return found
        return causes.cause(error) if ours(error) else None

    return causes.one_line_errors(find, ours)


def patch_entrypoint(cfg: Any) -> None:
    """Wrap the host's command line."""
    stock = cfg.entrypoint

    @functools.wraps(stock)
    def entrypoint(debug: str = "") -> Any:
        with one_line_errors(debug.split()[1:] if debug else None):
            return stock(debug)

    host.replace(cfg, "entrypoint", host.mark(entrypoint), everywhere=True)
