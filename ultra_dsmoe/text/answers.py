"""What providers said, kept on disk by the content that they were asked about.

One file of lines per provider and state, in the folder of kept text vectors. A line is written in one call that begins
with a line's end, so that what a killed process left half-written costs that answer alone, and several may write.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from ultra_dsmoe.text.cache import cache_folder

LOGGER = logging.getLogger("ultra_dsmoe.text")
FOLDER = "answers"


class Answers:
    """The kept answers of one provider in one state.

    Args:
        provider: Whatever tells these answers from others': id, state and which text, JSON-like.
        folder: Where they are kept; the user's cache folder when omitted.
    """

    def __init__(self, provider: Any, folder: Path | None = None) -> None:
        name = content_key(json.dumps(provider, sort_keys=True).encode())[:24]
        self.path = (folder or cache_folder() / FOLDER) / f"{name}.jsonl"
        self._kept: dict[str, Any] | None = None
        self._is_writable = True

    def get(self, key: str) -> Any:
        """Return the answer kept under a content's key, or None."""
        if self._kept is None:
            self._kept = dict(_lines(self.path))
        return self._kept.get(key)

    def put(self, key: str, answer: Any) -> None:
        """Keep an answer; a folder that cannot be written costs only the next run's time."""
        self.get(key)
        assert self._kept is not None
        self._kept[key] = answer
        if not self._is_writable:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as stream:
                stream.write(f"\n{json.dumps([key, answer])}\n".encode())
        except OSError as e:
            self._is_writable = False
            LOGGER.warning("texts: not kept, %s cannot be written (%s)", self.path, e)


def content_key(*parts: bytes) -> str:
    """Return the hash of some contents, the same on every machine."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _lines(path: Path) -> list[tuple[str, Any]]:
    """Return the answers of a file; lines that are damaged are left out."""
    try:
        content = path.read_bytes()
    except OSError:  # none yet, or none that can be read: writing says the latter
        return []
    found = []
    for line in content.splitlines():
        try:
            key, answer = json.loads(line) if line else (None, None)
        except (ValueError, TypeError, RecursionError):
            continue
        if isinstance(key, str):
            found.append((key, answer))
    return found
