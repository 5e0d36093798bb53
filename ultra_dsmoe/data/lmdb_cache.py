"""``cache=lmdb``: the host's data set takes its images, resized once, from an LMDB file.

Source: [DSMoE] Sec. 4, which keeps letterboxed images in LMDB. Deviation: without the bars, as the host's own caches
have them: augmentation works on bare images, and adding bars costs nothing.

An image is stored under the hash of its file's bytes, so a wrong one cannot be found. An index remembers each file's
size and time, which spares reading it again. Pictures are written in transactions of a few: what a killed writer had
committed is whole and is used. LMDB lets one process write and any number read.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from ultra_dsmoe.errors import ConfigError, DataError

NAME = "lmdb"
FORMAT = b"1"
MAP_BYTES = 1 << 40  # of address space, not of disk: alike in all processes, since LMDB refuses a map that has grown
READERS = 1024  # processes that read at once
COMMIT = 64  # images per transaction: a killed writer loses no more
_readers: dict[str, Any] = {}  # open environments by path; LMDB allows a process one each


def use_lmdb(dataset: Any, hyp: Any) -> None:
    """Let a data set of the host read its images from its LMDB file, into which the missing ones are written first.

    Args:
        dataset: The host's, built with ``cache=lmdb``, which is no caching to it.
        hyp: The host's arguments, for the transforms.

    Raises:
        ConfigError: If the package lmdb is not installed, or on Windows.
        DataError: If the file cannot be read or written, or a picture has more than 8 bits.
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
    size = "x".join(str(n) for n in np.atleast_1d(dataset.imgsz))
    folder = Path(dataset.im_files[0]).parent
    return folder.with_name(f"{folder.name}-{size}-{dataset.channels}.lmdb")


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

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.keys)

    def __getitem__(self, i: int) -> np.ndarray:
        """Return an image (H, W, C), uint8, BGR.

        Raises:
            DataError: If the cache was deleted or damaged after it was filled.
        """
        with _blamed(load_library(), self.path), _reader(self.path).begin(buffers=True) as transaction:
            data = transaction.get(self.keys[i])
            if data is None:
                raise DataError(str(self.path), "all images of the set (delete it to begin anew)", f"no image {i}")
            return np.frombuffer(data, np.uint8).reshape(self.shapes[i]).copy()


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
    rows, changed, added = [], 0, 0
    with _blamed(library, path), library.open(str(path), map_size=MAP_BYTES, max_readers=READERS) as environment:
        environment.reader_check()  # frees the slots of killed readers
        _check_format(environment, path)
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


def _check_format(environment: Any, path: Path) -> None:
    with environment.begin(write=True) as transaction:
        if transaction.stat()["entries"] == 0:
            transaction.put(b"format", FORMAT)
        found = transaction.get(b"format")
    if found != FORMAT:
        raise DataError(str(path), f"a cache of format {FORMAT.decode()} (delete it to begin anew)", found)


def _entered(transaction: Any, dataset: Any, i: int) -> tuple[dict[str, Any], bool, bool]:
    """Return the index row of an image, whether its file has changed since it was cached, and whether it is new."""
    file = Path(dataset.im_files[i])
    name = b"file " + hashlib.blake2b(str(file.resolve()).encode(), digest_size=32).digest()
    state = file.stat()
    known = json.loads(transaction.get(name) or b"{}")
    if known.get("state") == [state.st_size, state.st_mtime_ns]:
        return known, False, False
    key = hashlib.blake2b(file.read_bytes(), digest_size=32).digest()
    image, original, _ = dataset.load_image(i)
    if image.dtype != np.uint8:
        raise DataError(str(file), "a picture of 8 bits for cache=lmdb", image.dtype)
    row = {
        "state": [state.st_size, state.st_mtime_ns],
        "key": key.hex(),
        "original": list(original),
        "shape": list(image.shape),
    }
    is_new = transaction.put(key, image.tobytes(), overwrite=False)
    transaction.put(name, json.dumps(row).encode())
    return row, bool(known) and known["key"] != row["key"], is_new


@contextmanager
def _blamed(library: Any, path: Path) -> Iterator[None]:
    """Name the cache in errors of LMDB: a full or read-only disk, a damaged file."""
    try:
        yield
    except library.Error as e:
        raise DataError(str(path), "a cache that can be read and written (delete it to begin anew)", str(e)) from e
