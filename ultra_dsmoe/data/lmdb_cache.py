"""``cache=lmdb``: the host's data set takes its images, resized once, from an LMDB file.

Source: [DSMoE] Sec. 4, which keeps letterboxed images in LMDB. Deviation: without the bars, as the host's own caches
have them: augmentation works on bare images, and adding bars costs nothing.

An image is stored under the hash of its file's bytes, so a wrong one cannot be found. An index remembers each file's
size and times, which spares reading it again: where they differ, the bytes are hashed and compared. The time of the
last change of state is among them, since the one of the last writing can be set back. Pictures are written in
transactions of a few: what a killed writer had committed is whole and is used. LMDB lets one process write and any
number read.

What is stale: a cache of another format, size or number of channels is refused, since its images would mix with
others; a picture that has changed is cached anew with a warning, under its new hash, so that nobody can get the old one
for it. A record whose checksum does not fit is not used: the host reads that picture from its file, with a warning.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.files import file_state

NAME = "lmdb"
FORMAT = 2
MAP_BYTES = 1 << 40  # of address space, not of disk: alike in all processes, since LMDB refuses a map that has grown
READERS = 1024  # processes that read at once
COMMIT = 64  # images per transaction: a killed writer loses no more
CHECKSUM_BYTES = 8  # of which 4 are used: images begin at a multiple of eight bytes, where NumPy adds words fastest
WORD_BYTES = 8
COLUMNS = 509  # a prime, so that pages of 4096 bytes that have changed places change the sums of columns
MB = 10**6
_readers: dict[str, Any] = {}  # open environments by path; LMDB allows a process one each


def use_lmdb(dataset: Any, hyp: Any) -> None:
    """Let a data set of the host read its images from its LMDB file, into which the missing ones are written first.

    Args:
        dataset: The host's, built with ``cache=lmdb``, which is no caching to it.
        hyp: The host's arguments, for the transforms.

    Raises:
        ConfigError: If the package lmdb is not installed, or on Windows.
        DataError: If the file cannot be read or written or is of other settings, the disk is full, or a picture has
            more than 8 bits or changes while it is read.
    """
    library = load_library()
    # The host's word for "images come from `ims`": its buffer of recent images stays out of play.
    dataset.cache = "ram"
    path = cache_path(dataset)
    rows = _filled(library, path, dataset)
    dataset.ims = CachedImages(path, [bytes.fromhex(row["key"]) for row in rows], [row["shape"] for row in rows])
    dataset.im_hw0 = [tuple(row["original"]) for row in rows]
    dataset.im_hw = [tuple(row["shape"][:2]) for row in rows]
    dataset.transforms = dataset.build_transforms(hyp=copy(hyp))  # those with a buffer asked for `cache` when built


def is_wanted(arguments: Any) -> bool:
    """Whether the host's arguments say ``cache=lmdb``."""
    return str(arguments.cache).lower() == NAME


def load_library() -> Any:
    """Return the module lmdb.

    Raises:
        ConfigError: If it is not installed, or on Windows.
    """
    if sys.platform == "win32":
        raise ConfigError("cache", "ram or disk on Windows, where LMDB takes the whole size of its map on disk", NAME)
    try:
        return importlib.import_module("lmdb")
    except ImportError as e:
        raise ConfigError("cache=lmdb", "an installed lmdb (pip install lmdb)", str(e)) from e


def cache_path(dataset: Any) -> Path:
    """Return the folder of a data set's cache: beside that of its images, one per size."""
    folder = Path(dataset.im_files[0]).parent
    pairs = "" if _references(dataset) is None else "-pairs"
    return folder.with_name(f"{folder.name}-{_size(dataset)}-{dataset.channels}{pairs}.lmdb")


def _references(dataset: Any) -> Any:
    """Return the known-good pictures that stand beside a data set's images, None where it has none."""
    return getattr(dataset, "references", None)


def _size(dataset: Any) -> str:
    return "x".join(str(n) for n in np.atleast_1d(dataset.imgsz))


def _settings(dataset: Any) -> str:
    """Return what all images of a cache share, in words."""
    pairs = "" if _references(dataset) is None else " of each picture of a pair"
    return f"format {FORMAT}, imgsz {_size(dataset)}, {dataset.channels} channels{pairs}"


def _checksum(data: Any) -> bytes:
    """Return the CRC of the sums of columns of the data laid out as words in rows; of few bytes, that of the bytes.

    A flipped bit always changes it. The CRC of all bytes would take ten times as long, a twelfth of what loading takes.
    """
    summed = len(data) // (WORD_BYTES * COLUMNS) * COLUMNS
    sums = np.frombuffer(data, np.uint64, summed).reshape(-1, COLUMNS).sum(axis=0) if summed else b""
    return zlib.crc32(memoryview(data)[summed * WORD_BYTES :], zlib.crc32(sums)).to_bytes(CHECKSUM_BYTES, "little")


def _sealed(data: bytes) -> bytes:
    """Return a record: its checksum, then the data."""
    return _checksum(data) + data


def _unsealed(record: Any) -> memoryview | None:
    """Return the data of a record; None where there is no record or its checksum does not fit."""
    if record is None:
        return None
    data = memoryview(record)[CHECKSUM_BYTES:]
    return data if record[:CHECKSUM_BYTES] == _checksum(data) else None


class CachedImages:
    """Images by number, each read anew, so that nobody can change what others get; pickles as its path."""

    def __init__(self, path: Path, keys: list[bytes], shapes: list[list[int]]) -> None:
        """Remember where they are.

        Args:
            path: Folder of the cache.
            keys: One per image.
            shapes: Of the images, (H, W, C).
        """
        self.path, self.keys, self.shapes = path, keys, shapes
        self._checked: int | None = None
        self._has_warned = False

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.keys)

    def __getitem__(self, i: int) -> np.ndarray | None:
        """Return an image (H, W, C), uint8, BGR; None, from which the host reads the file, where it is damaged."""
        library = load_library()
        try:
            with _reader(self.path).begin(buffers=True) as transaction:
                record = transaction.get(self.keys[i])
                # The host asks twice for an image, whose checksum is computed once.
                data = record[CHECKSUM_BYTES:] if record is not None and i == self._checked else _unsealed(record)
                if data is not None:
                    self._checked = i
                    return np.frombuffer(data, np.uint8).reshape(self.shapes[i]).copy()
                reason = f"image {i} is missing" if record is None else f"image {i} is not what was written"
        except library.Error as e:
            reason = str(e)
        self._warn(reason)
        return None

    def __setitem__(self, i: int, image: Any) -> None:
        """Drop an image that the host had to read from its file and, in some versions, would keep."""

    def _warn(self, reason: str) -> None:
        """Say once per process that the cache is damaged."""
        from ultralytics.utils import LOGGER

        if not self._has_warned:
            LOGGER.warning(f"{self.path}: damaged, {reason}; read from the file instead (delete it to begin anew)")
        self._has_warned = True


def _reader(path: Path) -> Any:
    """Return this process's environment for reading."""
    key = str(path)
    if key not in _readers:
        _readers[key] = load_library().open(
            key, readonly=True, create=False, map_size=MAP_BYTES, max_readers=READERS, readahead=False
        )
    return _readers[key]


def close_readers() -> None:
    """Close all environments, which open again when needed: a forked process cannot open what it has inherited."""
    while _readers:
        _readers.popitem()[1].close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=close_readers)


def _filled(library: Any, path: Path, dataset: Any) -> list[dict[str, Any]]:
    """Write what is missing and return one index row per image."""
    from ultralytics.utils import LOGGER, TQDM

    close_readers()
    rows: list[dict[str, Any]] = []
    changed, added = 0, 0
    with (
        _blamed(library, path, dataset, rows),
        _opened(library, path) as environment,
    ):
        environment.reader_check()  # frees the slots of killed readers
        _check_settings(environment, path, dataset)
        files = dataset.im_files
        bar = TQDM(range(0, len(files), COMMIT), desc=f"{dataset.prefix}Caching images in {path.name}")
        for start in bar:
            with environment.begin(write=True) as transaction:
                for i in range(start, min(start + COMMIT, len(files))):
                    row, is_changed, is_added = _entered(transaction, dataset, i)
                    rows.append(row)
                    changed, added = changed + is_changed, added + is_added
    if changed:
        LOGGER.warning(f"{path}: {changed} of {len(rows)} images have changed since they were cached, cached anew")
    LOGGER.info(f"{path}: {added} of {len(rows)} images written")
    return rows


def _opened(library: Any, path: Path) -> Any:
    """Return the environment for writing, in a new folder where there is none."""
    try:
        return library.open(str(path), map_size=MAP_BYTES, max_readers=READERS)
    except OSError as e:  # of the new folder; LMDB's own errors are no errors of the system
        raise DataError(str(path), "a place that can be written, for the cache", e.strerror or str(e)) from e


def _check_settings(environment: Any, path: Path, dataset: Any) -> None:
    wanted = _settings(dataset)
    with environment.begin(write=True) as transaction:
        if transaction.stat()["entries"] == 0:
            transaction.put(b"format", wanted.encode())
        found = (transaction.get(b"format") or b"no format").decode(errors="replace")
    if found != wanted:
        raise DataError(str(path), f"a cache of {wanted} (delete it to begin anew)", found)


def _entered(transaction: Any, dataset: Any, i: int) -> tuple[dict[str, Any], bool, bool]:
    """Return the index row of an image, whether its file has changed since it was cached, and whether it is new."""
    file = Path(dataset.im_files[i])
    name = b"file " + hashlib.blake2b(str(file.resolve()).encode(), digest_size=32).digest()
    sources, words = _sources(dataset, i)
    state = _state(sources, words)
    known = json.loads(bytes(_unsealed(transaction.get(name)) or b"{}"))
    if known.get("state") == state:
        return known, False, False
    key = _key(sources, words)
    image, original, _ = dataset.load_image(i)
    dataset.ims[i] = None  # some versions of the host keep it
    if image.dtype != np.uint8:
        raise DataError(str(file), "a picture of 8 bits for cache=lmdb", image.dtype)
    if _state(sources, words) != state:
        raise DataError(str(file), "a picture that stays as it is while it is cached", "another size or time")
    row = {"state": state, "key": key.hex(), "original": list(original), "shape": list(image.shape)}
    is_new = _unsealed(transaction.get(key)) is None
    if is_new:
        transaction.put(key, _sealed(image.tobytes()))
    transaction.put(name, _sealed(json.dumps(row).encode()))
    return row, bool(known) and known["key"] != row["key"], is_new


def _sources(dataset: Any, i: int) -> tuple[list[Path], list[str]]:
    """Return the files that an image of a cache is made of, the image's first, and in words how a pair is."""
    references = _references(dataset)
    if references is None:
        return [Path(dataset.im_files[i])], []
    sources: list[Path] = dataset.sources(i)
    return sources, ["pair", references.spec.align]


def _state(sources: list[Path], words: list[str]) -> list[Any]:
    """Return by what a changed image is known without reading its files."""
    return [n for source in sources for n in file_state(source)] + words


def _key(sources: list[Path], words: list[str]) -> bytes:
    """Return the hash of an image's content; of a pair, that of the hashes of its files."""
    contents = [source.read_bytes() for source in sources]
    if words:
        contents = [hashlib.blake2b(content).digest() for content in contents] + [" ".join(words).encode()]
    return hashlib.blake2b(b"".join(contents), digest_size=32).digest()


@contextmanager
def _blamed(library: Any, path: Path, dataset: Any, rows: list[dict[str, Any]]) -> Iterator[None]:
    """Name the cache in errors of LMDB, which says of a full disk no more than of a broken or a read-only one."""
    try:
        yield
    except library.Error as e:
        needed, free = _bytes_needed(dataset, rows), shutil.disk_usage(path.parent).free
        if free < needed:
            wanted = f"{needed / MB:.1f} MB free on its disk for the rest (what is cached stays)"
            raise DataError(str(path), wanted, f"{free / MB:.1f} MB ({e})") from e
        raise DataError(str(path), "a cache that can be read and written (delete it to begin anew)", str(e)) from e


def _bytes_needed(dataset: Any, rows: list[dict[str, Any]]) -> int:
    """Return about how many bytes the images not yet committed take, given the rows of those seen."""
    count = len(dataset.im_files)
    if not rows:
        pictures = 1 if _references(dataset) is None else 2
        return count * int(np.prod(np.broadcast_to(dataset.imgsz, 2))) * dataset.channels * pictures
    uncommitted = count - (len(rows) - 1) // COMMIT * COMMIT
    return uncommitted * sum(int(np.prod(row["shape"])) for row in rows) // len(rows)
