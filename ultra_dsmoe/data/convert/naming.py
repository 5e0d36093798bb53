"""Names that files of many folders have once they lie in one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ultra_dsmoe.errors import DataError


def plain(word: str) -> str:
    """Return a word as folders and classes are compared: without case, spaces and hyphens."""
    return re.sub(r"[\s-]+", "_", word.strip().lower())


def require_folder(folder: Path, content: str) -> None:
    """Refuse a path that is no folder.

    Args:
        folder: What was given.
        content: What is looked for in it.

    Raises:
        DataError: If it is not there, or a file.
    """
    if not folder.is_dir():
        raise DataError(str(folder), f"an existing folder {content}", "a file" if folder.exists() else "no such folder")


def distinct_stems(folder: Path, images: Sequence[Path]) -> dict[Path, str]:
    """Return names that differ: where several images share one, their folders are put behind it.

    Args:
        folder: From which on folders count; all images are below it.
        images: Their files.

    Raises:
        DataError: If two names are the same all the same.
    """
    counts = Counter(image.stem.lower() for image in images)
    stems = {}
    for image in images:
        parts = [image.stem, *map(plain, image.relative_to(folder).parent.parts)]
        stems[image] = "_".join(parts) if counts[image.stem.lower()] > 1 else image.stem
    for stem, count in Counter(s.lower() for s in stems.values()).items():
        if count > 1:
            raise DataError(str(folder), "one image of a name", f"{count} of {stem}")
    return stems
