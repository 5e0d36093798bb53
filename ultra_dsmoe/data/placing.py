"""Let a finished folder appear under its final name in one step, and never over something else."""

from __future__ import annotations

from pathlib import Path

from ultra_dsmoe.errors import DataError


def require_unused(root: Path) -> None:
    """Refuse a path that holds something.

    Raises:
        DataError: If it is a file or a folder with anything in it.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(str(root), "a new or empty folder; move the old one away first", "one with something in it")


def move_into_place(partial: Path, root: Path) -> None:
    """Rename a finished folder to its final name; if another process was faster, its result stands.

    Args:
        partial: The finished folder, with a ``data.yaml``, on the same disk as the final one.
        root: The final name.

    Raises:
        DataError: If something else has come to stand there.
    """
    partial.chmod(0o755)  # temporary folders are private to their maker
    try:
        if root.is_dir() and not any(root.iterdir()):
            root.rmdir()  # some systems do not rename onto an empty folder
        partial.rename(root)
    except OSError as error:
        if not (root / "data.yaml").is_file():
            raise DataError(str(root), "a folder that can be created", str(error)) from error
