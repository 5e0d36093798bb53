"""The command line: a user error of ours ends it with one line and exit code 1, everything else passes through."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ultra_dsmoe.errors import ConfigError, DSMoEError
from ultra_dsmoe.plugin import host, lookup


def user_error(error: BaseException | None) -> DSMoEError | None:
    """Return the user error in ``error`` or among those it was raised from, None where there is none."""
    while error is not None:
        if isinstance(error, DSMoEError):
            return error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def host_error(words: list[str]) -> DSMoEError | None:
    """Return the error of a command that names something of ours on a host that we do not know, else None.

    Args:
        words: The command's words.
    """
    problem = host.problem()
    pairs = [word.partition("=") for word in words]
    files = [os.path.basename(value) for _, _, value in pairs if value.endswith((".yaml", ".yml"))]
    ours = any(key.startswith("dsmoe_") for key, _, _ in pairs)
    if problem is None or not (
        ours or any(lookup.packaged(other) for file in files for other in lookup.spellings(file))
    ):
        return None
    from ultralytics import __version__

    return ConfigError("ultralytics", "a version that this ultra-dsmoe knows", f"{__version__}, {problem}")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn user errors into one line on stderr and exit code 1."""
    try:
        yield
    except Exception as e:  # whatever the host wraps around ours; anything else goes on unchanged
        error = user_error(e) or host_error(sys.argv[1:])
        if error is None:
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from e


def patch_entrypoint(cfg: Any) -> None:
    """Wrap the host's command line."""
    stock = cfg.entrypoint

    @functools.wraps(stock)
    def entrypoint(*args: Any, **kwargs: Any) -> Any:
        with one_line_errors():
            return stock(*args, **kwargs)

    host.replace(cfg, "entrypoint", host.mark(entrypoint), everywhere=True)
