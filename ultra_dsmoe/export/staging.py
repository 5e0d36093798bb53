"""Exports come to be in a hidden folder beside their place and move there once they are found to be good.

An export that is refused, cannot be checked or runs out of space leaves what was there before as it was.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ultralytics.utils import LOGGER

from ultra_dsmoe.errors import ConfigError, DSMoEError
from ultra_dsmoe.files import supplant

PREFIX = ".export-"
FULL = 1 << 20  # bytes: with less left a disk counts as full


class Stage(logging.Filter):
    """The folder that one export writes into; made when the host says where it would write.

    As a filter of the log it shows the final places, which is where a user looks.
    """

    def __init__(self) -> None:
        """Begin without a folder."""
        super().__init__()
        self.folder: Path | None = None

    def redirect(self, exporter: Any) -> None:
        """Send an exporter of the host, which derives all names from its ``file``, into the folder."""
        file = Path(exporter.file)
        if self.folder is None:
            made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=file.parent))
            self.folder = file.parent / made.name  # as the host writes it: relative stays relative
        exporter.file = self.folder / file.name

    def filter(self, record: logging.LogRecord) -> bool:
        """Take the folder out of a message."""
        if self.folder is not None and self.folder.name in (text := record.getMessage()):
            record.msg, record.args = self.final(text), ()
        return True

    def final(self, text: str) -> str:
        """Return a text whose paths lead to the final places."""
        return text if self.folder is None else text.replace(f"{self.folder.name}{os.sep}", "")

    def publish(self) -> None:
        """Move everything to its final place, over what is there."""
        if self.folder is None:
            return
        for part in sorted(self.folder.iterdir()):
            supplant(part, self.folder.parent / part.name)


@contextmanager
def staged(model: Any) -> Iterator[Stage]:
    """Let exports of ``model`` inside the block write into a stage; what is not published is gone after it.

    Args:
        model: ``YOLO`` object.

    Raises:
        ConfigError: If the folder cannot be written, or the disk is full.
    """
    stage = Stage()
    model.add_callback("on_export_start", stage.redirect)
    LOGGER.addFilter(stage)
    try:
        yield stage
    except DSMoEError:
        raise
    except Exception as e:  # runtimes report a full disk in many ways
        if cause := _cannot_write(stage, e):
            raise ConfigError("export", "a folder with room to write to", cause) from e
        raise
    finally:
        LOGGER.removeFilter(stage)
        model.callbacks["on_export_start"].remove(stage.redirect)
        if stage.folder is not None:
            shutil.rmtree(stage.folder, ignore_errors=True)


def _cannot_write(stage: Stage, error: Exception) -> str | None:
    """Return why nothing can be written, None where the error says something else."""
    if stage.folder is not None and shutil.disk_usage(stage.folder).free < FULL:
        return f"{stage.folder.parent}: the disk is full"
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError):
        return stage.final(str(error))
    return None
