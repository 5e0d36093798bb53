"""A causal language model reads the record and says which pattern it speaks of.

The model is told no class: what it makes of the numbers is its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ultra_dsmoe.errors import DataError, TextError
from ultra_dsmoe.text.generate import Model, ask, load_model, without_thoughts
from ultra_dsmoe.text.providers.base import Record
from ultra_dsmoe.text.providers.measures import measure
from ultra_dsmoe.text.providers.weights import Weights

ROLE = "You are a process engineer. This is what an inspection machine {how} of one product:"
TASK = "State the most likely pattern and why, in one or two sentences."
TOKENS = 1024  # of one answer; a reasoning model thinks before it answers (our choice)


class Language:
    """Says what a record tells, by a language model.

    Args:
        model: Folder of the model, or its id on the Hugging Face hub.
        state: As of `state`, where it is rebuilt; the model is then looked for on this disk alone.

    Raises:
        TextError: If there is no such folder.
    """

    def __init__(self, model: str, state: Mapping[str, Any] | None = None) -> None:
        self.weights = Weights("llm", model, is_kept=state is not None)
        self.settings = dict(state or {"role": ROLE, "task": TASK, "tokens": TOKENS})
        self._model: Model | None = None

    @property
    def id(self) -> str:
        """Return ``llm:<hub id>``, or ``llm:<folder's name>@<fingerprint of its files>``."""
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
        """Return what the model says of the record; without one, of the measured numbers.

        Args:
            text: ``llm``.
            image: RGB uint8 [H, W, 3].
            record: Its record, or None.

        Raises:
            DataError: If the model says nothing.
            TextError: If the model cannot be loaded.
        """
        answer = without_thoughts(ask(self._loaded(), self.question(image, record), int(self.settings["tokens"])))
        if not answer.strip():
            raise DataError(self.id, "an answer to the question about the record", "nothing")
        return " ".join(answer.split())

    def _loaded(self) -> Model:
        """Return tokenizer and network, loaded when they are first needed."""
        if self._model is None:
            source = self.weights.source()
            try:
                self._model = load_model(source, self.weights.device, local_only=self.weights.is_kept)
            except TextError as e:  # "model" would be another argument where a classifier is trained
                raise TextError("provider", e.expected, f"{self.weights.kind}:{e.got}") from e
        return self._model

    def question(self, image: np.ndarray, record: Record | None) -> str:
        """Return what the model is asked."""
        numbers = measure(image) if record is None else record
        how = "measured on the picture" if record is None else "recorded"
        lines = [f"{name}={value:.3g}" for name, value in numbers.items()]
        return "\n".join([str(self.settings["role"]).format(how=how), *lines, str(self.settings["task"])])

    def state(self) -> dict[str, Any]:
        """Return the question's words, JSON-like."""
        return self.settings
