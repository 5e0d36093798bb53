"""Vectors of any number of sentences, such as those said of the images of a data set.

Kept like the vectors of class descriptions, by content: the different sentences of one call are one file.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from ultra_dsmoe.text.bank import encode_bank
from ultra_dsmoe.text.class_separation import CONTROLS, identical_pairs
from ultra_dsmoe.text.encoders import TextEncoder
from ultra_dsmoe.text.models import check_texts

LOGGER = logging.getLogger("ultra_dsmoe.text")
SHOWN = 60  # characters of a sentence in a warning


def encode_sentences(
    texts: Sequence[str], encoder: str | TextEncoder = "auto", local_only: bool = False
) -> tuple[str, np.ndarray]:
    """Return the id of the encoder and a unit vector of each sentence, equal sentences encoded once.

    Args:
        texts: Sentences.
        encoder: As of `ultra_dsmoe.text.encode_bank`; ``auto`` never downloads.
        local_only: Never download, even where ``encoder`` is a hub id: for a name that a checkpoint brings.

    Returns:
        The encoder's id, and float32 [n, d] in the order of ``texts``.

    Raises:
        TextError: If there is no sentence, one is empty, or the encoder cannot be used.
    """
    check_texts(texts)
    different = sorted(set(texts))  # sorted: the same sentences in another order are the same kept file
    row = {text: i for i, text in enumerate(different)}
    sentences = [(text,) for text in different]
    bank = encode_bank(
        [str(i) for i in range(len(different))],
        encoder=encoder,
        keep=sentences,
        local_only=local_only,
        check_separation=False,
    )
    _warn_of_one_vector(different, bank.encoder, bank.vectors)
    return bank.encoder, bank.vectors[[row[text] for text in texts]]


def _warn_of_one_vector(sentences: Sequence[str], encoder: str, vectors: np.ndarray) -> None:
    """Say where an encoder gives different sentences one vector: it cannot read what separates them."""
    if encoder.partition(":")[0] in CONTROLS:
        return
    pairs = identical_pairs([(text,) for text in sentences], vectors)
    if pairs:
        first, second = (sentences[i][:SHOWN] for i in pairs[0])
        LOGGER.warning(
            "text: %s gives %d of %d different sentences the vector of another one, such as %r and %r; what separates "
            "them is lost", encoder, len({j for _, j in pairs}), len(sentences), first, second,
        )  # fmt: skip
