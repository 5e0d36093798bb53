"""What loggers of the host and of other libraries let through while a block of ours runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_level(logger: logging.Logger, level: int) -> Iterator[None]:
    """Hold a logger at ``level`` for the length of the block; it gets its own level back, after an error too."""
    own = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(own)
