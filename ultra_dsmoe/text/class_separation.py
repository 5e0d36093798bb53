"""Whether an encoder tells the classes apart, judged by the distances of its own vectors.

An encoder that does not know a script gives all of its words one vector, and says nothing about it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from ultra_dsmoe.errors import TextError

LOGGER = logging.getLogger("ultra_dsmoe.text")
# Cosine of two classes from which they count as close. Our choice, from the packaged sets: described classes reach 0.79
# with MiniLM and 0.74 with the hash encoder; classes told apart by one number word of a sentence, 0.97.
CLOSEST = 0.9
# Distance of two unit vectors up to which they are one. Our choice: what padding does to a model's row is below 1e-5;
# to the hash encoder, texts that differ in one word of a thousand are 0.04 apart.
SAME = 1e-3
NEAR = 1e-4  # cosine's distance from 1 that may be `SAME` in float32; of vectors that far apart it is 5e-7
BLOCK = 1024  # rows whose cosines are computed at a time
CONTROLS = ("zero",)  # encoders that give one vector on purpose
NAMED = 3  # pairs that a warning names before it counts

Pair = tuple[int, int]


def class_cosines(vectors: np.ndarray, encoder: str) -> np.ndarray:
    """Return the cosine of every two classes, [K, K].

    Hidden states of a causal language model share a large common part, which puts all their cosines near 1. It is the
    same for all classes and the network subtracts it, so it is subtracted here too, where there are at least three
    classes: of two, nothing but opposites would be left.

    Args:
        vectors: Unit vectors, [K, d].
        encoder: Id of the encoder.
    """
    vectors = vectors.astype(np.float64)
    if encoder.startswith("causal-lm") and len(vectors) > 2:
        vectors = vectors - vectors.mean(0)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    return np.clip(vectors @ vectors.T, -1, 1)


def identical_pairs(prompts: Sequence[Sequence[str]], vectors: np.ndarray) -> list[Pair]:
    """Return the pairs of classes that have different texts and one vector; a text given twice is meant to be one.

    Args:
        prompts: Prompts of every class, K lists.
        vectors: Unit vectors, [K, d].
    """
    texts = [sorted(sentences) for sentences in prompts]
    pairs: list[Pair] = []
    for start in range(0, len(vectors), BLOCK):  # cosines first: thousands of sentences are one product of matrices
        near = vectors[start : start + BLOCK] @ vectors.T > 1 - NEAR
        for row, i in np.argwhere(np.tril(near, start - 1)).tolist():
            j = start + row
            apart = np.linalg.norm(vectors[i].astype(np.float64) - vectors[j])
            pairs += [(i, j)] * bool(apart <= SAME and texts[i] != texts[j])
    return pairs


def require_separated(
    names: Sequence[str], prompts: Sequence[Sequence[str]], encoder: str, vectors: np.ndarray
) -> None:
    """Refuse classes that an encoder cannot tell apart, and warn of those that it hardly can.

    Args:
        names: Class names, K of them.
        prompts: Prompts of every class.
        encoder: Id of the encoder; the controls may give one vector.
        vectors: Unit vectors, [K, d].

    Raises:
        TextError: If two classes have different texts and one vector.
    """
    if encoder.partition(":")[0] in CONTROLS:
        return
    if unread := identical_pairs(prompts, vectors):
        other = "" if encoder.startswith("hash") else ", or take dsmoe_text=hash"
        expected = f"texts that {encoder} tells apart (describe them in words that it knows{other})"
        raise TextError("prompts", expected, f"one vector for {_named(names, unread)}")
    cosines = class_cosines(vectors, encoder)
    rows, columns = np.triu_indices(len(cosines), 1)
    close = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if cosines[i, j] >= CLOSEST]
    if close:
        close.sort(key=lambda pair: -cosines[pair])
        LOGGER.warning(
            "text: to the encoder %s these classes are nearly one: %s (cosine %.3f, limit %g); describe what separates "
            "them, 'dsmoe-yolo text lint' says more", encoder, _named(names, close), cosines[close[0]], CLOSEST,
        )  # fmt: skip


def _named(names: Sequence[str], pairs: Sequence[Pair]) -> str:
    """Return some pairs by name, and how many more there are."""
    shown = ", ".join(f"{names[i]!r} and {names[j]!r}" for i, j in pairs[:NAMED])
    return f"{shown} and {len(pairs) - NAMED} more pairs" if len(pairs) > NAMED else shown
