"""The table of layers that the host prints while it builds, with our rows in place of their stubs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ultra_dsmoe.plugin.yaml_rows import Row


@contextmanager
def held_back(logger: logging.Logger) -> Iterator[list[str]]:
    """Collect what ``logger`` says at INFO level instead of letting it out."""
    lines: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno == logging.INFO:
            lines.append(record.getMessage())
        return record.levelno != logging.INFO

    logger.addFilter(keep)
    try:
        yield lines
    finally:
        logger.removeFilter(keep)


def show(logger: logging.Logger, lines: list[str], rows: list[Row], layers: list[Any]) -> None:
    """Print the host's lines, those of our rows written from the layers that were really built."""
    head = len(lines) - len(rows)  # the host prints one line per row, after its headings
    for number, line in enumerate(lines):
        i = number - head
        if i >= 0 and rows[i].ours:
            row, layer = rows[i], layers[i]
            shown = [*row.plan.args, *(f"{k}={v}" for k, v in row.plan.kwargs.items())]
            line = f"{i:>3}{row.f!s:>20}{row.n:>3}{layer.np:10.0f}  {layer.type:<45}{shown!s:<30}"
        logger.info(line)
