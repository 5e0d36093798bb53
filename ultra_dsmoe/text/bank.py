"""The text bank: one vector per class, with all that is needed to know where it came from.

Source: [DSMoE] Sec. 3.2, Stage 1 (Eq. 1, ``pool(LLM(p_k))``). Our choice: the vectors are computed once, outside the
graph, and travel in the checkpoint; several prompts per class are normalised, averaged and normalised again, and
kept beside that one by one where the net attends over them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ultra_dsmoe.checks import class_names
from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text import cache
from ultra_dsmoe.text.class_separation import identical_pairs, require_separated
from ultra_dsmoe.text.encoders import HashEncoder, TextEncoder, make_encoder
from ultra_dsmoe.text.local_models import is_english, is_foreign, local_encoders
from ultra_dsmoe.text.prompts import class_prompts

LOGGER = logging.getLogger("ultra_dsmoe.text")
RANK = ("causal-lm", "sentence")  # encoders that `auto` prefers to hash, best first
MIN_NORM = 1e-12  # below it a vector has no direction
HALF_PRECISION = 1e-2  # distance of unit vectors that a checkpoint's 11 bits leave; other texts are 0.1 apart and more


@dataclass(frozen=True)
class TextBank:
    """Text vectors of all classes.

    Attributes:
        names: Class names in class order, K of them.
        prompts: Prompts of every class.
        encoder: Id of the encoder.
        vectors: float32 [K, d], rows of length 1.
        key: Content hash of (prompts, encoder).
        each: Vectors of the single prompts, float32 [K, P, d] with zeros where a class has fewer; None where they were
            not asked for.

    Raises:
        TextError: If the parts do not fit each other, or a vector holds NaN or infinity.
    """

    names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    encoder: str
    vectors: np.ndarray = field(repr=False, compare=False)  # the key stands for them in comparisons
    key: str
    each: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check that the parts fit each other."""
        class_names(self.names)
        if len(self.prompts) != len(self.names):
            raise TextError("text bank", f"prompts of {len(self.names)} classes", f"{len(self.prompts)}")
        object.__setattr__(self, "vectors", cache.check_vectors(self.vectors, len(self.names), "text vectors"))
        if self.each is None:
            return
        shape = (len(self.names), max(map(len, self.prompts)), self.dim)
        if self.each.shape != shape:
            raise TextError(
                "text bank", f"vectors of single prompts of shape {list(shape)}", f"{list(self.each.shape)}"
            )

    @property
    def dim(self) -> int:
        """Return the length d of the vectors."""
        return self.vectors.shape[1]

    def state(self) -> dict[str, Any]:
        """Return the bank as plain containers and one tensor, which any checkpoint reader accepts."""
        import torch

        return {
            "names": list(self.names),
            "prompts": [list(texts) for texts in self.prompts],
            "encoder": self.encoder,
            "vectors": torch.from_numpy(self.vectors.copy()),
            "key": self.key,
            **({} if self.each is None else {"each": torch.from_numpy(self.each.copy())}),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> TextBank:
        """Rebuild a bank from `state`.

        Raises:
            TextError: If a part is missing or the parts do not fit each other.
        """
        missing = [k for k in ("names", "prompts", "encoder", "vectors", "key") if k not in state]
        if missing:
            raise TextError("text bank", "names, prompts, encoder, vectors and key", f"no {', '.join(missing)}")
        prompts = tuple(tuple(texts) for texts in state["prompts"])
        import torch

        vectors, *each = (
            torch.as_tensor(state[k]).detach().float().cpu().numpy() for k in ("vectors", "each") if k in state
        )
        return cls(tuple(state["names"]), prompts, str(state["encoder"]), vectors, str(state["key"]), *each)


def encode_bank(
    names: Mapping[Any, Any] | Sequence[Any],
    prompts: Mapping[Any, Any] | None = None,
    encoder: str | TextEncoder = "auto",
    cache_dir: str | Path | None = None,
    *,
    keep: Sequence[Sequence[str]] | None = None,
    local_only: bool = False,
    check_separation: bool = True,
    each: bool = False,
) -> TextBank:
    """Return the text vectors of all classes, kept ones where there are.

    ``auto`` takes kept vectors of exactly these prompts, then a model already on this disk, then the hash encoder, and
    says so. It never downloads, and passes over what cannot read the prompts: an English model for other scripts, or
    one that gives different texts one vector.

    Args:
        names: Index to class name, or a list of names.
        prompts: Class name to description(s); a class without one gets the template.
        encoder: ``auto``, ``hash``, ``sentence:<id or folder>``, ``causal-lm:<id or folder>``, or an encoder object.
        cache_dir: Where vectors are kept; the user's cache folder when omitted.
        keep: Finished prompts of every class, as `TextBank.prompts`: they stand for the classes that ``prompts`` leaves
            out, word for word. This is how a trained model is reworded.
        local_only: Never download, even where ``encoder`` is a hub id: for a name that a checkpoint brings.
        check_separation: Refuse classes that the encoder cannot tell apart, and warn of close ones; without, nothing is
            said.
        each: Keep the vectors of the single prompts too. Vectors that are shipped or kept of whole classes do not hold
            them: the encoder must be at hand.

    Raises:
        TextError: If names, prompts, encoder or ``keep`` are wrong, the encoder returns unusable vectors, or one vector
            for classes of different texts.
    """
    labels = class_names(names)
    texts = tuple(tuple(sentences) for sentences in class_prompts(labels, prompts))
    if keep is not None:
        if len(keep) != len(labels):
            raise TextError("keep", f"prompts of {len(labels)} classes", f"{len(keep)}")
        named = {str(key).strip() for key in prompts or ()}
        texts = tuple(texts[i] if label in named else tuple(keep[i]) for i, label in enumerate(labels))
    folder = cache.cache_folder(cache_dir)
    wanted = tuple((text,) for sentences in texts for text in sentences) if each else texts  # a row for each of them
    try:
        name, vectors = _auto(wanted, folder) if encoder == "auto" else _named(wanted, folder, encoder, local_only)
    except TextError as e:
        if not local_only:
            raise
        way_out = "or the encoder named by you in dsmoe_text=: its id, to fetch it, or its folder"
        raise TextError(e.argument, f"{e.expected}, {way_out}", e.got) from e
    single = None
    if each:
        single, vectors = _by_class(vectors, texts), _means(vectors.astype(np.float64), texts, f"text encoder {name}")
    if check_separation:
        require_separated(labels, texts, name, vectors)
    return TextBank(labels, texts, name, vectors, cache.content_key(texts, name), single)


def gives_same(encoder: TextEncoder, trained: TextBank) -> bool:
    """Whether an encoder gives the vectors of a bank, up to the half precision of a checkpoint.

    A folder of a model cannot be told from a hub id by its name: what it makes of the same prompts says it.

    Raises:
        TextError: If the encoder cannot be loaded.
    """
    made = pool_prompts(encoder, trained.prompts)
    if made.shape != trained.vectors.shape:
        return False
    return bool((np.linalg.norm(made - _unit(trained.vectors, "text bank"), axis=1) <= HALF_PRECISION).all())


def pool_prompts(encoder: TextEncoder, prompts: cache.Prompts) -> np.ndarray:
    """Encode all prompts and return one unit vector per class: normalise, average, normalise.

    Args:
        encoder: The encoder.
        prompts: Prompts of every class, K lists.

    Returns:
        float32 [K, d].

    Raises:
        TextError: If the encoder returns another shape, NaN, infinity or a vector without direction.
    """
    flat = [text for texts in prompts for text in texts]
    vectors = cache.check_vectors(encoder.encode(flat), len(flat), f"text encoder {encoder.id}").astype(np.float64)
    source = f"text encoder {encoder.id}"
    return _means(_unit(vectors, source), prompts, source)


def _parts(vectors: np.ndarray, prompts: cache.Prompts) -> list[np.ndarray]:
    """Return the rows of each class, from those of all prompts in a row."""
    return np.split(vectors, np.cumsum([len(texts) for texts in prompts])[:-1])


def _means(vectors: np.ndarray, prompts: cache.Prompts, source: str) -> np.ndarray:
    """Return the mean of each class's unit vectors at length 1, float32 [K, d]."""
    means = np.stack([part.mean(axis=0) for part in _parts(vectors, prompts)])
    return _unit(means, f"{source}, mean of a class").astype(np.float32)


def _by_class(vectors: np.ndarray, prompts: cache.Prompts) -> np.ndarray:
    """Return the vectors of all prompts in a row as [K, P, d], with zeros where a class has fewer."""
    out = np.zeros((len(prompts), max(map(len, prompts)), vectors.shape[1]), dtype=np.float32)
    for rows, part in zip(out, _parts(vectors, prompts), strict=True):
        rows[: len(part)] = part
    return out


def _auto(texts: cache.Prompts, folder: Path) -> tuple[str, np.ndarray]:
    """Return (encoder id, vectors) by the order of `auto`."""
    foreign = any(is_foreign(text) for sentences in texts for text in sentences)
    found = cache.find([folder, *cache.packaged_folders()], texts)
    kept = [e for e in found if e[0].partition(":")[0] in RANK and _reads(e, texts, foreign)]
    if kept:
        return min(kept, key=lambda entry: RANK.index(entry[0].partition(":")[0]))  # the first of the best kind
    for encoder in local_encoders(foreign):
        try:
            made = encoder.id, _encode_and_keep(texts, folder, encoder)
        except TextError as e:
            LOGGER.warning("dsmoe_text=auto: %s; trying the next encoder", e)
            continue
        if _reads(made, texts, foreign):
            return made
        LOGGER.warning("dsmoe_text=auto: %s gives different texts one vector; trying the next encoder", encoder.id)
    LOGGER.warning(
        "dsmoe_text=auto: no language model on this disk%s, taking the hash encoder (spelling, not meaning); name a "
        "model with dsmoe_text=sentence:<id or folder> or dsmoe_text=causal-lm:<id or folder>",
        " that reads the script of these prompts" if foreign else "",
    )
    return HashEncoder().id, pool_prompts(HashEncoder(), texts)


def _reads(made: tuple[str, np.ndarray], texts: cache.Prompts, foreign: bool) -> bool:
    """Whether an encoder (id, vectors) can read these texts."""
    encoder, vectors = made
    return not (foreign and is_english(encoder)) and not identical_pairs(texts, vectors)


def _named(texts: cache.Prompts, folder: Path, encoder: str | TextEncoder, local_only: bool) -> tuple[str, np.ndarray]:
    """Return (encoder id, vectors) of the encoder that the user, or with ``local_only`` a checkpoint, named."""
    if isinstance(encoder, str):
        # A checkpoint's encoder id carries a fingerprint: kept vectors are enough then, the model need not be here.
        if "@" in encoder and (kept := _kept(texts, folder, encoder.strip())) is not None:
            return encoder.strip(), kept
        encoder = make_encoder(encoder, local_only=local_only)
    if not isinstance(encoder, TextEncoder):
        raise TextError("encoder", "an encoder's name, or an object with id and encode", encoder)
    if isinstance(encoder, HashEncoder):  # faster than reading a file
        return encoder.id, pool_prompts(encoder, texts)
    kept = _kept(texts, folder, encoder.id)
    return encoder.id, _encode_and_keep(texts, folder, encoder) if kept is None else kept


def _kept(texts: cache.Prompts, folder: Path, encoder: str) -> np.ndarray | None:
    """Return the vectors of (texts, encoder id) from the user's cache or the shipped ones, or None."""
    found = (cache.load(place, texts, encoder) for place in (folder, *cache.packaged_folders()))
    return next((vectors for vectors in found if vectors is not None), None)


def _encode_and_keep(texts: cache.Prompts, folder: Path, encoder: TextEncoder) -> np.ndarray:
    """Encode and write to the user's cache; a folder that cannot be written costs only the next run's time."""
    vectors = pool_prompts(encoder, texts)
    try:
        cache.save(folder, texts, encoder.id, vectors)
    except OSError as e:
        LOGGER.warning("text vectors: not kept, %s cannot be written (%s)", folder, e)
    return vectors


def _unit(vectors: np.ndarray, source: str) -> np.ndarray:
    """Return the rows [n, d] at length 1."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if (norms < MIN_NORM).any():
        raise TextError(source, "vectors with a direction", f"a zero vector in row {int(norms.argmin())}")
    return vectors / norms
