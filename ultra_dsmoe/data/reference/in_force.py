"""The known-good pictures that the call at hand works with, for code that the host calls without them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ultra_dsmoe.data.reference.references import References

DATA_KEY = "dsmoe_references"  # where a data dictionary of the host carries them; never saved

_current: ContextVar[References | None] = ContextVar("references", default=None)


def current() -> References | None:
    """Return the known-good pictures of the call at hand, None where it has none."""
    return _current.get()


@contextmanager
def in_force(references: References | None) -> Iterator[None]:
    """Let `current` return ``references`` inside the block, and what it returned before behind it."""
    token = _current.set(references)
    try:
        yield
    finally:
        _current.reset(token)


def attach(data: dict[str, Any], references: References | None) -> dict[str, Any]:
    """Let the host's data dictionary carry known-good pictures, where there are some: its images become pairs."""
    if references is not None:
        data[DATA_KEY] = references
        data["channels"] = 2 * references.channels
    return data
