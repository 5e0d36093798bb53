"""Text vectors on disk: one small ``.npz`` per (prompts, encoder), found again by the prompts' content.

A file's name is ``<hash of the prompts>-<hash of the encoder id>.npz``, so that the vectors of exactly these prompts
can be found whichever encoder made them. Two places are read: the user's cache and the vectors that are shipped beside
the packaged data YAMLs. Only the user's cache is written during training.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.files import package_roots, whole_file, written_to

LOGGER = logging.getLogger("ultra_dsmoe.text")
CACHE_ENV = "ULTRA_DSMOE_CACHE"
FORMAT = 1  # raise it when prompts are turned into vectors in another way: old files are then never found again

# What numpy and zipfile raise on truncated or overwritten archives; TextError is a ValueError.
_DAMAGE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error)

Prompts = Sequence[Sequence[str]]


def content_key(prompts: Prompts, encoder: str) -> str:
    """Return the content hash of (prompts, encoder id), the same on every machine."""
    return f"{_prompts_hash(prompts)}-{_digest(encoder, 8)}"


def cache_folder(folder: str | Path | None = None) -> Path:
    """Return where vectors are kept: ``folder``, ``$ULTRA_DSMOE_CACHE``, or the user's cache folder."""
    if folder is not None:
        return Path(folder).expanduser()
    if os.environ.get(CACHE_ENV):
        return Path(os.environ[CACHE_ENV]).expanduser() / "text"
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "ultra_dsmoe" / "text"


def packaged_folders() -> list[Path]:
    """Return the folders of shipped vectors: inside the wheel, or beside the package in an editable install."""
    return [root / "datasets" / "vectors" for root in package_roots()]


def save(folder: Path, prompts: Prompts, encoder: str, vectors: np.ndarray) -> Path:
    """Write the vectors of all classes; other processes see the old file or the whole new one.

    Args:
        folder: Where to write; made when missing.
        prompts: The prompts of every class.
        encoder: The encoder's id.
        vectors: float32 [K, d].

    Returns:
        The file.

    Raises:
        OSError: If the folder cannot be written.
    """
    with written_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{content_key(prompts, encoder)}.npz"
    write(path, prompts, encoder, vectors)
    return path


def write(path: Path, prompts: Prompts, encoder: str, vectors: np.ndarray) -> None:
    """Write the vectors of all classes into a file of any name, in a folder that exists; see `save`."""
    with whole_file(path) as part, part.open("wb") as stream:
        np.savez(stream, vectors=vectors, encoder=np.array(encoder), prompts=np.array(_as_json(prompts).encode()))


def load(folder: Path, prompts: Prompts, encoder: str) -> np.ndarray | None:
    """Return the kept vectors [K, d] of (prompts, encoder), or None where there are none or the file is damaged."""
    path = folder / f"{content_key(prompts, encoder)}.npz"
    entry = _read(path, prompts) if path.is_file() else None
    return entry[1] if entry and entry[0] == encoder else None


def find(folders: Sequence[Path], prompts: Prompts) -> list[tuple[str, np.ndarray]]:
    """Return every kept (encoder id, vectors [K, d]) of exactly these prompts, in the folders' order."""
    pattern = f"{_prompts_hash(prompts)}-*.npz"
    entries = (_read(path, prompts) for folder in folders for path in sorted(folder.glob(pattern)))
    return [entry for entry in entries if entry is not None]


def check_vectors(vectors: np.ndarray, count: int, source: str) -> np.ndarray:
    """Return ``vectors`` as float32 [count, d].

    Raises:
        TextError: If the shape is another, or a value is NaN or infinite.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.shape[0] != count or vectors.shape[1] < 1 or vectors.dtype.kind != "f":
        raise TextError(source, f"float vectors of shape [{count}, d]", f"{vectors.dtype} {list(vectors.shape)}")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is reported below
        vectors = vectors.astype(np.float32)
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise TextError(source, "finite vectors", f"NaN or infinity in row {int(bad.argmax())}")
    return vectors


def _read(path: Path, prompts: Prompts) -> tuple[str, np.ndarray] | None:
    """Read one file; a damaged one is reported and skipped, the next encoding rewrites it."""
    try:
        if not zipfile.is_zipfile(path):  # numpy would take a bare array or a pickle for one
            raise ValueError("not an npz archive")
        with np.load(path, allow_pickle=False) as data:
            encoder, kept, vectors = str(data["encoder"]), bytes(data["prompts"]).decode(), data["vectors"]
        vectors = check_vectors(vectors, len(prompts), path.name)
    except _DAMAGE as e:
        LOGGER.warning("text vectors: ignoring the damaged file %s (%s)", path, str(e).split("\n")[0])
        return None
    return (encoder, vectors) if kept == _as_json(prompts) else None


def _as_json(prompts: Prompts) -> str:
    """Return the prompts as canonical text."""
    return json.dumps([list(texts) for texts in prompts], ensure_ascii=True, separators=(",", ":"))


def _prompts_hash(prompts: Prompts) -> str:
    """Return the hash of the prompts and of the file format."""
    return _digest(f"{FORMAT}{_as_json(prompts)}", 20)


def _digest(text: str, length: int) -> str:
    """Return the first ``length`` hex digits of the text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]
