"""The texts of a classifier's images as numbers: where they come from, how they are encoded, what stands in for them.

Fitted on the training half alone; its state goes into the checkpoint and into exported files, so that whoever predicts
gets the same numbers for the same image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ultra_dsmoe.errors import DataError, TextError
from ultra_dsmoe.text.bank import RANK, TextBank
from ultra_dsmoe.text.sentences import encode_sentences
from ultra_dsmoe.text.sidecars import ImageText, TextSource

CONSTANT = "a picture of a part"  # what the control `constant` says of every image
SHUFFLE_SEED = 0
PROBE = "A dark mark lies left of the centre."  # whose vector tells an encoder from another
DIGITS = 5  # behind the point, of the probe's numbers: vectors of other encoders are 0.1 apart and more


class Encoded(NamedTuple):
    """The texts of M images.

    Attributes:
        numbers: What an image carries, float32 (M, L): first text, second text, the record's numbers.
        groups: Which texts are equal, int64 (M, 2), of the first and of the second.
    """

    numbers: np.ndarray
    groups: np.ndarray


class PairText:
    """Texts of images as vectors of one encoder.

    Attributes:
        encoder: Id of the encoder.
        width: Length of a vector.
        keys: Names of the record's numbers that go along as numbers, sorted.
        named: Name under which the user gives the encoder in this call, a folder or its id; None where there is none.
    """

    named: str | None = None

    def __init__(
        self,
        source: TextSource,
        encoder: str,
        width: int,
        scales: dict[str, tuple[float, float]] | None = None,
        control: str = "none",
        *,
        local_only: bool = True,
        probe: list[float] | None = None,
    ) -> None:
        """Remember how images get their numbers.

        Args:
            source: Of the texts, fitted.
            encoder: Id of the encoder, or its name.
            width: Length of its vectors.
            scales: Mean and deviation of each of the record's numbers that go along.
            control: ``none``, or what stands in for the true texts: ``shuffled``, ``constant``, ``zero``.
            local_only: Whether the encoder may only be looked for on this disk, unless the user names it.
            probe: Its vector of `PROBE`, where its id does not tell its content.
        """
        self.source, self.encoder, self.width, self.control = source, encoder, width, control
        self.scales, self.local_only, self.probe = dict(scales or {}), local_only, probe

    @property
    def keys(self) -> list[str]:
        """Names of the record's numbers that go along, sorted."""
        return sorted(self.scales)

    @property
    def size(self) -> int:
        """How many numbers an image carries."""
        return 2 * self.width + len(self.scales)

    @classmethod
    def fit(
        cls,
        images: Sequence[Path],
        provider: str = "rules",
        encoder: str = "auto",
        *,
        numbers: bool = False,
        control: str = "none",
    ) -> PairText:
        """Learn from the training images, never from their classes.

        Args:
            images: Files.
            provider: Says what the sidecars lack.
            encoder: Name of the text encoder.
            numbers: Whether the record's numbers go along.
            control: See `PairText`.

        Raises:
            DataError: If texts or records are missing, or the records have no number in common that varies.
            TextError: If provider or encoder cannot be used.
        """
        source = TextSource.named(provider)
        source.fit(images)
        texts = source.read(images)
        scales = _scales(texts) if numbers else None
        name, vectors = encode_sentences(_sentences(texts), encoder)
        return cls(source, name, vectors.shape[1], scales, control, probe=_probe(name))

    def encode(self, images: Sequence[Path]) -> Encoded:
        """Return the numbers of image files, in order.

        Raises:
            DataError: If a text or a record's number is missing.
            TextError: If the encoder is not on this disk.
        """
        return self._encode(self.source.read(images), [str(image) for image in images])

    def describe(self, image: np.ndarray, record: dict[str, float] | None = None) -> np.ndarray:
        """Return the numbers (L,) of a picture without a file, RGB uint8 (H, W, 3)."""
        return self._encode([self.source.describe(image, record)], ["the image"]).numbers[0]

    def _encode(self, texts: list[ImageText], names: list[str]) -> Encoded:
        records = np.stack([self._record(text.record, name) for text, name in zip(texts, names, strict=True)])
        sentences = [CONSTANT] * 2 * len(texts) if self.control == "constant" else _sentences(texts)
        local_only = self.local_only and self.named is None
        _, vectors = encode_sentences(sentences, self.named or self.encoder, local_only=local_only)
        if vectors.shape[1] != self.width:
            raise TextError("dsmoe_text", f"vectors of {self.width} numbers, as in training", vectors.shape[1])
        kinds = np.unique(sentences, return_inverse=True)[1].reshape(-1, 2)
        numbers = np.concatenate([vectors.reshape(len(texts), -1), records], axis=1).astype(np.float32)
        if self.control == "shuffled":
            order = np.random.default_rng(SHUFFLE_SEED).permutation(len(texts))
            numbers, kinds = numbers[order], kinds[order]
        elif self.control in ("constant", "zero"):
            numbers[:, 2 * self.width :] = 0
            numbers *= self.control != "zero"
            kinds = np.zeros_like(kinds)
        return Encoded(numbers, kinds)

    def _record(self, record: dict[str, float] | None, name: str) -> np.ndarray:
        """Return a record's numbers that go along, standardised."""
        values = []
        for key in self.keys:
            if key not in (record or {}):
                raise DataError(f"record of {name}", f"the number {key}, as in training", sorted(record or {}))
            mean, deviation = self.scales[key]
            values.append(((record or {})[key] - mean) / deviation)
        return np.asarray(values, dtype=np.float32)

    def state(self) -> dict[str, Any]:
        """Return what `from_state` needs, of numbers, text, lists and mappings alone."""
        scales = {key: list(pair) for key, pair in self.scales.items()}
        return {
            "source": self.source.state(),
            "encoder": self.encoder,
            "width": self.width,
            "scales": scales,
            "control": self.control,
            **({} if self.probe is None else {"probe": self.probe}),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> PairText:
        """Return the texts that `state` described.

        Raises:
            TextError: If the state is none.
        """
        try:
            scales = {str(key): (float(mean), float(dev)) for key, (mean, dev) in state["scales"].items()}
            source = TextSource.from_state(state["source"])
            probe = [float(value) for value in state["probe"]] if "probe" in state else None
            return cls(source, str(state["encoder"]), int(state["width"]), scales, str(state["control"]), probe=probe)
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise TextError("texts of the model", "what a training of this package wrote", state) from e


def _probe(encoder: str) -> list[float] | None:
    """Return an encoder's vector of `PROBE`; None of one whose id tells its content, or that is no longer here."""
    if encoder.partition(":")[0] not in RANK or "@" in encoder:
        return None
    try:
        return [round(float(v), DIGITS) for v in encode_sentences([PROBE], encoder, local_only=True)[1][0]]
    except TextError:  # its vectors of the set were kept from before
        return None


def probe_bank(state: dict[str, Any] | None) -> TextBank | None:
    """Return the vector by which the encoder of a state is known, as a bank of one; None where none was kept."""
    if state is None or state.get("probe") is None:
        return None
    vectors = np.asarray(state["probe"], dtype=np.float32)[None]
    return TextBank(("probe",), ((PROBE,),), str(state["encoder"]), vectors, "")


def _sentences(texts: Sequence[ImageText]) -> list[str]:
    """Return both texts of each image in a row."""
    return [sentence for text in texts for sentence in (text.vlm, text.llm)]


def _scales(texts: Sequence[ImageText]) -> dict[str, tuple[float, float]]:
    """Return mean and deviation of the numbers that all records have and that vary."""
    records = [text.record or {} for text in texts]
    keys = set(records[0]).intersection(*records) if records else set()
    found = {}
    for key in sorted(keys):
        values = np.array([record[key] for record in records], dtype=float)
        if values.std() > 0:
            found[key] = float(values.mean()), float(values.std())
    if not found:
        raise DataError("records", "numbers that every training image has and that vary, for dsmoe.numbers", "none")
    return found
