"""Files and folders that appear under their names in one step, complete or not at all.

Standard library alone: what runs at the line writes files too.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from ultra_dsmoe.errors import DataError, PlaceError

CONTENT = "content"  # of a folder that is being made
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the file system, what this user may have of it, or a file


def package_roots() -> tuple[Path, Path]:
    """Return where ``cfg`` and ``datasets`` may lie: in an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return package, package.parent


def sync(path: Path) -> None:
    """Have the system write a file or folder to the disk itself; not every system does that for folders."""
    with suppress(OSError) if path.is_dir() else nullcontext():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def file_state(file: Path) -> list[int]:
    """Return by what a changed file is known without reading it: bytes, times of writing and of any change, in ns."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def can_write(folder: Path) -> bool:
    """Whether a file can be made in a folder, found out by making one.

    Permissions do not tell it of the system's own folders, where the superuser has all of them.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@contextmanager
def written_to(path: Path, part: Path | None = None) -> Iterator[None]:
    """Name ``path`` in what a disk refuses inside the block.

    Args:
        path: What the user knows.
        part: Where it is written meanwhile: only what concerns that, or a full disk, is meant. All of it if left out.

    Raises:
        PlaceError: If it cannot be written.
    """
    try:
        yield
    except PlaceError:
        raise
    except OSError as e:
        is_full = e.errno in FULL
        if part is not None and not is_full and not str(e.filename or "").startswith(str(part)):
            raise
        expected = "a disk with room for what is written" if is_full else "a place that can be written"
        error = PlaceError(str(path), expected, e.strerror or str(e))
        error.errno = e.errno
        raise error from e


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a name beside ``path`` to write to; the file takes its place when the block ends.

    An error, a full disk or a killed process leaves what stood there before.

    Args:
        path: The file to write, in a folder that exists.

    Raises:
        PlaceError: If it cannot be written there.
    """
    with written_to(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    part = Path(name)
    try:
        with written_to(path, part):
            yield part
            sync(part)
            umask = os.umask(0)
            os.umask(umask)
            part.chmod(0o666 & ~umask)  # temporary files are private to their maker
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_set(folder: Path, side: str) -> Iterator[Path]:
    """Give a folder for files that take their places in ``folder`` when the block ends, in the order of their names.

    An error, a full disk or a killed process leaves ``folder`` as it was; what the killed one left goes with the next.

    Args:
        folder: Where the files belong; made where it is missing.
        side: Name of the folder beside them. One writer at a time may use it.
    """
    beside = folder / side
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        files = sorted(beside.iterdir())
        for file in files:
            sync(file)
        for file in files:
            os.replace(file, folder / file.name)
        sync(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def supplant(part: Path, target: Path) -> None:
    """Move a finished file or folder to its place, over what is there; an error leaves that."""
    if not (target.is_dir() or (part.is_dir() and target.exists())):
        os.replace(part, target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))  # one step replaces no folder
    try:
        os.replace(target, aside / target.name)
        try:
            os.replace(part, target)
        except OSError:
            os.replace(aside / target.name, target)
            raise
    finally:
        shutil.rmtree(aside)


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files, each complete or not at all, and return their paths; the folder is made where it is missing."""
    with written_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in files.items():
        with whole_file(folder / name) as part:
            part.write_bytes(content)
        paths.append(folder / name)
    return paths


def require_unused(root: Path) -> None:
    """Refuse a path that holds something.

    Raises:
        DataError: If it is a file or a folder with anything in it.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(str(root), "a new or empty folder; move the old one away first", "one with something in it")


@contextmanager
def whole_folder(root: Path, proof: str = "data.yaml") -> Iterator[Path]:
    """Give an empty folder beside ``root`` to fill; it takes its place when the block ends.

    An error leaves nothing behind. If another process was faster, its result stands.

    Args:
        root: The folder to make, which `require_unused`; those above it are made where they are missing.
        proof: File by which a finished folder is known.

    Raises:
        DataError: If something else has come to stand there.
        PlaceError: If it cannot be made or filled.
    """
    require_unused(root)
    with written_to(root):
        root.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{root.name}.partial-", dir=root.parent))
    try:
        content = partial / CONTENT
        with written_to(root, partial):
            content.mkdir()  # as the umask has it; the temporary folder around it is private to its maker
            yield content
        _move_into_place(content, root, proof)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move_into_place(content: Path, root: Path, proof: str) -> None:
    """Rename a finished folder to its final name."""
    try:
        if root.is_dir() and not any(root.iterdir()):
            root.rmdir()  # some systems do not rename onto an empty folder
        content.rename(root)
    except OSError as error:
        if not (root / proof).is_file():
            raise DataError(str(root), "a folder that can be created", str(error)) from error
