"""Who says the texts of an image: what a provider is given, and what it must be able to do.

A provider sees pixels and recorded numbers, nothing else: no path, no folder, no class. What it says can then teach a
net without telling it the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

TEXTS = ("vlm", "llm")  # of the picture, as a vision-language model says it; of the record, as a language model does

Record = Mapping[str, float]


class Describer(Protocol):
    """Says one of the two texts of an image, or both."""

    @property
    def id(self) -> str:
        """Name that tells it from any other; holds no path of this machine."""

    def prepare(self) -> None:
        """Load what it needs, so that what is missing is found before any image is read."""

    def fit(self, images: Iterable[np.ndarray], records: Sequence[Record | None]) -> None:
        """Learn what is usual from the training half: RGB uint8 images, one record or None each."""

    def describe(self, text: str, image: np.ndarray, record: Record | None) -> str:
        """Return the text ``vlm`` or ``llm`` of an RGB uint8 image and its record."""

    def state(self) -> dict[str, Any]:
        """Return what `fit` learned, JSON-like; the same state gives the same texts."""


class RecordReader(Protocol):
    """Reads the record off an image of the recorded text."""

    @property
    def id(self) -> str:
        """Name that tells it from any other."""

    def prepare(self) -> None:
        """Load what it needs."""

    def read(self, image: np.ndarray) -> dict[str, float]:
        """Return the numbers on an RGB uint8 image by their names."""


class TextProvider:
    """Two texts per image, each from its own describer, and a reader for records that are only pictures.

    Args:
        vlm: Says what the picture shows.
        llm: Says what the record tells.
        reader: Reads records off pictures; None where records are numbers already.
    """

    def __init__(self, vlm: Describer, llm: Describer, reader: RecordReader | None = None) -> None:
        self.vlm, self.llm, self.reader = vlm, llm, reader

    @property
    def id(self) -> str:
        """Return the ids of its parts, joined by ``+``."""
        first = [] if self.reader is None else [self.reader.id]
        return "+".join(dict.fromkeys([*first, self.vlm.id, self.llm.id]))

    def prepare(self) -> None:
        """Have each part load what it needs.

        Raises:
            TextError: If weights or a package are missing.
        """
        if self.reader is not None:
            self.reader.prepare()
        for part in self._parts():
            part.prepare()

    def fit(self, images: Iterable[np.ndarray], records: Sequence[Record | None]) -> None:
        """Let each part learn what is usual from the training half.

        Args:
            images: RGB uint8 images; gone through once for each part that needs them.
            records: The record of each image, or None.
        """
        for part in self._parts():
            part.fit(images, records)

    def describe(self, image: np.ndarray, record: Record | None) -> tuple[str, str]:
        """Return both texts of an image.

        Args:
            image: RGB uint8 [H, W, 3].
            record: Numbers recorded with it, or None.
        """
        return self.vlm.describe("vlm", image, record), self.llm.describe("llm", image, record)

    def state(self) -> dict[str, Any]:
        """Return what the parts learned, by their ids."""
        return {"provider": self.id, "parts": {part.id: part.state() for part in self._parts()}}

    def _parts(self) -> list[Describer]:
        """Return the describers, one that says both texts once."""
        return [self.vlm] if self.vlm is self.llm else [self.vlm, self.llm]
