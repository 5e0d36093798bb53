"""A vision-language model says what it sees: any that transformers loads for images and text to text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ultra_dsmoe.errors import DataError, TextError
from ultra_dsmoe.text.generate import without_thoughts
from ultra_dsmoe.text.model_hub import load_local_first
from ultra_dsmoe.text.providers.base import Record
from ultra_dsmoe.text.providers.weights import Weights

QUESTION = (
    "Describe this inspection image comprehensively: how the marks are distributed over it, where they gather, and "
    "what shape they form."
)
TOKENS = 128  # of one answer; text encoders read about as many (our choice)


class VisionLanguage:
    """Says what a picture shows, by a vision-language model: the same picture gives the same text.

    Args:
        model: Folder of the model, or its id on the Hugging Face hub.
        state: As of `state`, where it is rebuilt; the model is then looked for on this disk alone.

    Raises:
        TextError: If there is no such folder.
    """

    def __init__(self, model: str, state: Mapping[str, Any] | None = None) -> None:
        self.weights = Weights("vlm", model, is_kept=state is not None)
        self.settings = dict(state or {"question": QUESTION, "tokens": TOKENS})
        self._model: tuple[Any, Any, list[str]] | None = None

    @property
    def id(self) -> str:
        """Return ``vlm:<hub id>``, or ``vlm:<folder's name>@<fingerprint of its files>``."""
        return self.weights.id

    def prepare(self) -> None:
        """Load the model.

        Raises:
            TextError: If it cannot be loaded.
        """
        self._loaded()

    def fit(self, images: Iterable[np.ndarray], records: Sequence[Record | None]) -> None:
        """Learn nothing: the model is as it is."""

    def describe(self, text: str, image: np.ndarray, record: Record | None) -> str:
        """Return what the model says of a picture.

        Args:
            text: ``vlm``.
            image: RGB uint8 [H, W, 3].
            record: Not shown to the model.

        Raises:
            DataError: If the model says nothing.
            TextError: If the model cannot be loaded.
        """
        answer = " ".join(without_thoughts(self._ask(image)).split())
        if not answer:
            raise DataError(self.id, "an answer to the question about the picture", "nothing")
        return answer

    def state(self) -> dict[str, Any]:
        """Return the question's words, JSON-like."""
        return self.settings

    def _loaded(self) -> tuple[Any, Any]:
        """Return processor and network, loaded when they are first needed."""
        if self._model is None:
            source = self.weights.source()
            try:
                self._model = load_local_first(lambda local: _load(source, local), self.id, self.weights.is_local)
            except TextError as e:
                raise TextError("provider", e.expected, f"{self.id} ({e.got})") from e
            _, net, missing = self._model
            if missing:  # they would be random
                self._model = None
                raise TextError("provider", "a model with all its weights", f"{self.id} without {missing[0]}")
            net.to(self.weights.device).eval()
        return self._model[:2]

    def _ask(self, image: np.ndarray) -> str:
        """Return the model's answer about a picture, without the question that some repeat."""
        import torch
        from PIL import Image

        processor, net = self._loaded()
        question, picture = str(self.settings["question"]), Image.fromarray(image)
        if getattr(processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            turns = [{"role": "user", "content": content}]
            question = processor.apply_chat_template(turns, add_generation_prompt=True)
        inputs = processor(images=[picture], text=[question], return_tensors="pt").to(net.device, net.dtype)
        with torch.inference_mode():
            # A model's own settings may draw; nothing may be left of them.
            out = net.generate(
                **inputs, do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None,
                max_new_tokens=int(self.settings["tokens"]),
            )  # fmt: skip
        ids, asked = out[0].tolist(), inputs["input_ids"][0].tolist()
        return processor.batch_decode(
            [_after(ids, asked, set(processor.tokenizer.all_special_ids))], skip_special_tokens=True
        )[0]


def _after(ids: list[int], asked: list[int], special: set[int]) -> list[int]:
    """Return what follows the question in a model's tokens: some repeat it, with or without its special tokens."""
    if ids[: len(asked)] == asked:
        return ids[len(asked) :]
    ends = [i for i, token in enumerate(asked) if token not in special]
    bare = asked[ends[0] : ends[-1] + 1] if ends else []
    for start in (0, 1):  # some begin with another token than the question did
        if bare and ids[start : start + len(bare)] == bare:
            return ids[start + len(bare) :]
    return ids


def _load(source: str, local: bool) -> tuple[Any, Any, list[str]]:
    """Return processor, network and the names of the tensors that the files lack."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(source, local_files_only=local)
    loaded: Any = AutoModelForImageTextToText.from_pretrained(source, local_files_only=local, output_loading_info=True)
    net, info = loaded
    return processor, net, sorted(info["missing_keys"])
