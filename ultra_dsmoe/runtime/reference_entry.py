"""What a detector says about the known-good picture that it wants beside every image; also in exported files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ultra_dsmoe.checks import is_number, is_whole
from ultra_dsmoe.errors import WeightsError

KEY = "dsmoe_reference"  # of an exported file's metadata, and of every command line
ORDERS = {1: "image, reference", 3: "image RGB, reference RGB"}
BLANK = "blank"  # word for `missing`: an image may go without its reference
OK, ABSENT, UNREGISTERED = "ok", "missing", "unregistered"  # states of an image's reference


@dataclass(frozen=True)
class ReferenceEntry:
    """The input of a detector that sees pairs.

    Attributes:
        channels: Of an image; the input has twice as many.
        missing: What an image without a reference means: an ``error``, or a ``blank`` reference.
        align: How references were laid on their images in training: ``none``, ``shift`` or ``affine``.
        limit: Mismatch above which a reference counts as that of another product, None where none was measured.
        form: How the first row compares.
    """

    channels: int = 3
    missing: str = "error"
    align: str = "none"
    limit: float | None = None
    form: str | None = None

    @property
    def mismatch_limit(self) -> float:
        """The limit, or the usual one where none was measured."""
        from ultra_dsmoe.runtime.registration import (
            MISMATCH_LIMIT,
        )  # late: every process with the host loads this module

        return MISMATCH_LIMIT if self.limit is None else self.limit

    def as_text(self) -> str:
        """Return the entry for an exported file's metadata, JSON."""
        return json.dumps({**asdict(self), "order": ORDERS.get(self.channels, ORDERS[1])})


@dataclass(frozen=True)
class PictureReference:
    """The reference of one picture.

    Attributes:
        state: ``ok``, ``missing``, or ``unregistered`` where it could not be laid on the picture.
        mismatch: 0 where both show the same product, 1 where they have nothing in common; None without a reference.
        quality: How well it lies on the picture, up to 1; None where it was not registered.
        file: Its file, None for an array or none.
    """

    state: str
    mismatch: float | None = None
    quality: float | None = None
    file: str | None = None

    def is_other(self, limit: float) -> bool:
        """Whether it seems to show another product."""
        return self.mismatch is not None and self.mismatch > limit

    def note(self, limit: float) -> str:
        """Return what there is to say of it beside the picture's boxes; nothing where all is well."""
        if self.is_other(limit):
            return f"another product? mismatch {self.mismatch:.2f} above {limit:.2f}"
        return "" if self.state == OK else f"reference {self.state}"


def read_entry(metadata: Mapping[str, Any], file: str) -> ReferenceEntry | None:
    """Return what a file's metadata say about references, None where it wants none.

    Args:
        metadata: The file's table.
        file: Its name, for errors.

    Raises:
        WeightsError: If the entry is not what an export wrote.
    """
    if KEY not in metadata:
        return None
    text = metadata[KEY]
    try:
        value = json.loads(text) if isinstance(text, str) else dict(text)
        entry = ReferenceEntry(**{name: value[name] for name in ReferenceEntry.__dataclass_fields__})
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise WeightsError(f"{KEY} of {file}", "what this package's export wrote", _short(text)) from e
    known = entry.missing in ("error", BLANK) and entry.align in ("none", "shift", "affine")
    if not (known and is_whole(entry.channels, 1) and (entry.limit is None or is_number(entry.limit, 0))):
        raise WeightsError(f"{KEY} of {file}", "what this package's export wrote", _short(text))
    return entry


def _short(text: Any, most: int = 60) -> str:
    shown = text if isinstance(text, str) else repr(text)
    return shown if len(shown) <= most else f"{shown[:most]}..."
