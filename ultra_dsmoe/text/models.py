"""Encoders with weights: sentence models and causal language models, loaded from this disk or, by name, from the hub.

Source: [DSMoE] Sec. 3.2, Stage 1: a frozen DeepSeek-R1-Distill-Qwen-1.5B reads the prompts. Pooling is the mean of the
last hidden states over non-pad tokens (our choice: a causal model has no CLS token, and its first token cannot see the
prompt). The sentence encoder is ours, for machines that cannot hold a language model.

Constructing an encoder loads nothing: its id alone is enough to look for kept vectors.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text.model_hub import load_local_first

DEFAULT_CAUSAL_LM = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
MAX_TOKENS = 512  # our choice: prompts are sentences; longer text is cut, not refused
BATCH = 16  # prompts per forward; bounds memory with a 1.5B model on a CPU
BF16_SUFFIX = "#bf16"
SENTENCE_OWNER = "sentence-transformers"


class SentenceEncoder:
    """A sentence-transformers model.

    Args:
        model: Folder of the model, or its id on the Hugging Face hub.
        name: Name of a folder's model in the id, where the folder's own name says nothing.
        local_only: Never download, even where ``model`` is an id.
        device: Where to run it.

    Raises:
        TextError: If the model is a path that does not exist.
    """

    kind = "sentence"

    def __init__(self, model: str, *, name: str | None = None, local_only: bool = False, device: str = "cpu") -> None:
        if re.fullmatch(r"[\w.-]+", model) and not Path(model).exists():
            model = f"{SENTENCE_OWNER}/{model}"  # as sentence-transformers reads a bare name
        self.source, self.name = locate(f"{self.kind} encoder", model, name)
        self.local_only, self.device = local_only or Path(self.source).is_dir(), device
        self._model: Any = None

    @property
    def id(self) -> str:
        """Return ``sentence:<hub id>``, or ``sentence:<folder's name>@<fingerprint of its files>``."""
        return f"{self.kind}:{self.name}"

    def encode(self, texts: list[str]) -> np.ndarray:
        """Return float32 [n, d] as the model makes them.

        Raises:
            TextError: If sentence-transformers is not installed or the model cannot be loaded.
        """
        check_texts(texts)
        if self._model is None:
            self._model = self._load()
        vectors = self._model.encode(texts, batch_size=BATCH, convert_to_numpy=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    def _load(self) -> Any:
        """Load the model, from this disk first."""
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as e:
            need = "sentence-transformers to be installed (pip install 'ultra-dsmoe[text]')"
            raise TextError(f"text encoder {self.id}", need, str(e)) from e

        def load(local: bool) -> Any:
            return SentenceTransformer(self.source, device=self.device, local_files_only=local)

        return load_local_first(load, self.id, self.local_only)


class CausalLMEncoder:
    """A causal language model; the mean of its last hidden states over non-pad tokens.

    Args:
        model: Folder of the model, or its id on the Hugging Face hub.
        dtype: ``float32``, or ``bfloat16``: half the memory, about two digits.
        local_only: Never download, even where ``model`` is an id.
        device: Where to run it.

    Raises:
        TextError: If the model is a path that does not exist, or ``dtype`` is another.
    """

    kind = "causal-lm"

    def __init__(
        self, model: str = DEFAULT_CAUSAL_LM, *, dtype: str = "float32", local_only: bool = False, device: str = "cpu"
    ) -> None:
        if dtype not in ("float32", "bfloat16"):
            raise TextError("CausalLMEncoder dtype", "float32 or bfloat16", dtype)
        self.source, self.name = locate(f"{self.kind} encoder", model)
        self.local_only, self.device, self.dtype = local_only or Path(self.source).is_dir(), device, dtype
        self._model: tuple[Any, Any] | None = None

    @property
    def id(self) -> str:
        """Return ``causal-lm:<hub id or folder's name@fingerprint>``, with ``#bf16`` in half precision."""
        return f"{self.kind}:{self.name}{BF16_SUFFIX if self.dtype == 'bfloat16' else ''}"

    def encode(self, texts: list[str]) -> np.ndarray:
        """Return float32 [n, d] as the model makes them; padding does not change a row.

        Raises:
            TextError: If the model or its tokenizer cannot be loaded.
        """
        check_texts(texts)
        if self._model is None:
            self._model = load_local_first(self._load, self.id, self.local_only)
        return np.concatenate([self._pool(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)])

    def _load(self, local: bool) -> tuple[Any, Any]:
        """Load tokenizer and model."""
        import torch
        from transformers import AutoModel, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.source, local_files_only=local)
        # Behind the tokens a causal model cannot see the padding; before them it would shift their positions.
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        model = AutoModel.from_pretrained(self.source, local_files_only=local)
        return tokenizer, model.to(self.device, getattr(torch, self.dtype)).eval()

    def _pool(self, texts: list[str]) -> np.ndarray:
        """Return float32 [n, d] of one batch."""
        import torch

        assert self._model is not None
        tokenizer, model = self._model
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        ids, mask = tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device)
        ids = ids.masked_fill(mask == 0, 0)  # some tokenizers add a padding token that the model has no embedding for
        with torch.inference_mode():
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()  # (B, L, D)
        weight = mask.unsqueeze(-1).float()
        # [DSMoE] Eq. 1, pool(LLM(p_k))
        return ((hidden * weight).sum(1) / weight.sum(1).clamp_min(1)).cpu().numpy()  # (B, D)


def check_texts(texts: Sequence[str]) -> None:
    """Refuse what no encoder can read."""
    if isinstance(texts, str) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise TextError("encode", "a list of at least one text, none of them empty", texts)


def locate(kind: str, model: str, name: str | None = None) -> tuple[str, str]:
    """Return where a model lies and the name it goes by in an id.

    Args:
        kind: What it is for, for the error.
        model: Its folder, or its id on the Hugging Face hub.
        name: Name of a folder's model, where the folder's own name says nothing.

    Returns:
        The folder or the hub id; the name, with a fingerprint where it is a folder.

    Raises:
        TextError: If it is neither.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise TextError(kind, "a model folder with a config.json", model)
        return str(folder.resolve()), f"{name or folder.resolve().name}@{fingerprint(folder)}"
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", model):
        raise TextError(kind, "an existing folder or a model id", f"{model!r}, which is neither")
    return model, model


def fingerprint(folder: Path, samples: int = 16, size: int = 1 << 16) -> str:
    """Return 8 hex digits that tell this model from another of the same name.

    Args:
        folder: The model's folder.
        samples: Pieces read of each weight file, evenly spread: enough to tell two trainings apart, without reading
            gigabytes.
        size: Bytes per piece.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(p for p in folder.glob("*") if p.suffix in {".safetensors", ".bin"} or p.name == "modules.json"):
        length = path.stat().st_size
        digest.update(f"{path.name}:{length}".encode())
        with path.open("rb") as stream:
            for i in range(samples):
                stream.seek(max(length - size, 0) * i // max(samples - 1, 1))
                digest.update(stream.read(size))
    return digest.hexdigest()[:8]
