"""From text to vectors behind one interface; no encoder is ever part of a training or inference graph.

Source: [DSMoE] Sec. 3.2, Stage 1. The hash encoder is our choice, for machines without any weights; so are the random
and the zero encoder, controls that show what a net trained without any meaning in its vectors reaches.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np

from ultra_dsmoe.checks import whole
from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text.local_models import best_local, with_id
from ultra_dsmoe.text.models import BF16_SUFFIX, DEFAULT_CAUSAL_LM, CausalLMEncoder, SentenceEncoder, check_texts
from ultra_dsmoe.text.prompts import near

HASH_DIM = 1536  # the paper's language model's hidden size, so that a model built on hash vectors has the same width
# From the Indic scripts on, without extended Latin and Greek, punctuation, arrows, operators and private use.
_SIGNS = re.compile(r"[\u0900-\u1dff\u25a0-\u2c5f\u2c80-\ua71f\ua800-\ufdff\ufe20-\U0003ffff]+")
_SIGN_KINDS = "LMNS"  # Unicode's letters, marks, numbers and symbols
KINDS = ("auto", "hash", "sentence", "causal-lm", "random", "zero")


@runtime_checkable
class TextEncoder(Protocol):
    """What the text side needs of an encoder."""

    @property
    def id(self) -> str:
        """Name that tells these vectors from any other encoder's; holds no path of this machine."""

    def encode(self, texts: list[str]) -> np.ndarray:
        """Return float32 [n, d], one row per text, in order."""


class HashEncoder:
    """Signed hashing of words and character 3-grams: spelling, not meaning. No weights, the same on every machine.

    Scripts without spaces, their marks and pictograms also count as single characters and pairs.

    Args:
        dim: Length of the vectors.
    """

    def __init__(self, dim: int = HASH_DIM) -> None:
        self.dim = whole("HashEncoder dim", dim, kind=TextError)

    @property
    def id(self) -> str:
        """Return ``hash``, with the width where it is not the usual one."""
        return "hash" if self.dim == HASH_DIM else f"hash:{self.dim}"

    def encode(self, texts: list[str]) -> np.ndarray:
        """Return float32 [n, dim], every row of length 1."""
        check_texts(texts)
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for feature in _grams(text):
                _add_hashed(row, feature)
            if not row.any():  # all features cancelled: possible in narrow vectors only
                _add_hashed(row, text)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class RandomEncoder(HashEncoder):
    """A control: every text its own direction drawn at random, which tells texts apart and says nothing about them.

    Args:
        dim: Length of the vectors.
        seed: Draws other directions; the same text, width and seed give the same vector on every machine.
    """

    def __init__(self, dim: int = HASH_DIM, seed: int = 0) -> None:
        super().__init__(dim)
        self.seed = whole("RandomEncoder seed", seed, low=0, kind=TextError)

    @property
    def id(self) -> str:
        """Return ``random:<width>:<seed>``."""
        return f"random:{self.dim}:{self.seed}"

    def encode(self, texts: list[str]) -> np.ndarray:
        """Return float32 [n, dim], Gaussian directions of length 1."""
        check_texts(texts)
        seeds = (hashlib.blake2b(f"{self.seed} {text}".encode(), digest_size=8).digest() for text in texts)
        rows = np.stack([np.random.default_rng(int.from_bytes(s, "little")).standard_normal(self.dim) for s in seeds])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class ZeroEncoder(HashEncoder):
    """A control: one vector for all texts, so that nothing is left of it once the network has subtracted the mean.

    Zeros themselves have no direction, which a bank refuses. The vector is the first axis: the mean of ones is one in
    any precision, and the network's centred vectors are zeros exactly.

    Args:
        dim: Length of the vectors.
    """

    @property
    def id(self) -> str:
        """Return ``zero:<width>``."""
        return f"zero:{self.dim}"

    def encode(self, texts: list[str]) -> np.ndarray:
        """Return float32 [n, dim], every row the first axis."""
        check_texts(texts)
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        rows[:, 0] = 1
        return rows


def make_encoder(spec: str, *, local_only: bool = False) -> TextEncoder:
    """Return the encoder that ``spec`` names; nothing is loaded yet.

    Args:
        spec: ``hash``, ``sentence:<id or folder>``, ``causal-lm[:<id or folder>][#bf16]`` or ``auto``; also the id that
            a checkpoint keeps, where a model with that fingerprint is on this disk. ``auto`` is a model already on this
            disk, or else ``hash``. For controls, ``random[:<width>[:<seed>]]`` and ``zero[:<width>]``.
        local_only: Never download, even where ``spec`` is a hub id: for a name that a checkpoint brings.

    Raises:
        TextError: If the kind is unknown, a model is missing or a folder does not exist.
    """
    expected = ("auto, hash, sentence:<id or folder>, causal-lm:<id or folder>, or the controls "
                "random:<width>:<seed> and zero:<width>")  # fmt: skip
    if not isinstance(spec, str):
        raise TextError("text encoder", expected, spec)
    kind, _, model = spec.strip().partition(":")
    dtype = "bfloat16" if kind.endswith(BF16_SUFFIX) or model.endswith(BF16_SUFFIX) else "float32"
    kind, model = kind.removesuffix(BF16_SUFFIX), model.removesuffix(BF16_SUFFIX).strip()
    if kind == "hash" and (not model or model.isdigit()):
        return HashEncoder(int(model or HASH_DIM))
    if kind == "random" and re.fullmatch(r"(\d+(:\d+)?)?", model):
        return RandomEncoder(*map(int, model.split(":") if model else ()))
    if kind == "zero" and (not model or model.isdigit()):
        return ZeroEncoder(int(model or HASH_DIM))
    if kind == "auto" and not model:
        return best_local() or HashEncoder()
    if kind == "causal-lm":
        # Without an id the user named no model: the paper's, and only from this disk.
        return with_id(spec) or CausalLMEncoder(
            model or DEFAULT_CAUSAL_LM, dtype=dtype, local_only=local_only or not model
        )
    if kind == "sentence" and model and dtype == "float32":
        return with_id(spec) or SentenceEncoder(model, local_only=local_only)
    raise TextError("text encoder", expected, f"{spec!r}{near(kind, KINDS) if kind not in KINDS else ''}")


def _grams(text: str) -> Iterator[str]:
    """Yield every word, and the 3-grams of every word between word ends, so that inflections still meet."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.findall(r"[^\W_]+", folded) or folded.split()
    runs = signs(folded)
    for word in (*words, *(run for run in runs if run not in words)):
        yield word
        framed = f"<{word}>"
        yield from (framed[i : i + 3] for i in range(len(framed) - 2))
    for run in runs:
        yield from run
        yield from (run[i : i + 2] for i in range(len(run) - 1))


def signs(text: str) -> list[str]:
    """Return the runs of characters that words alone do not tell: of scripts without spaces, vowel marks, pictograms.

    A whole sentence is one word there, marks and pictograms are no part of any. Alphabets with spaces have none, so
    that their vectors, on which checkpoints rest, stay as they are.

    Args:
        text: In NFKC form.
    """
    kept = (c if unicodedata.category(c)[0] in _SIGN_KINDS else " " for c in text)
    return _SIGNS.findall("".join(kept))


def _add_hashed(row: np.ndarray, feature: str) -> None:
    """Add one signed feature to ``row`` [d]; Python's own hash() differs from process to process."""
    digest = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "little")
    row[(digest >> 1) % len(row)] += 1.0 if digest & 1 else -1.0
