"""Where the weights of a model that describes are, and under which name it is known."""

from __future__ import annotations

from pathlib import Path

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text.models import locate


class Weights:
    """A model by its folder, its id on the Hugging Face hub, or the id that a checkpoint keeps.

    Args:
        kind: ``vlm`` or ``llm``.
        model: Folder or id.
        is_kept: Whether the id comes from a checkpoint: it is then fetched from nowhere, and need not be here.

    Raises:
        TextError: If it is none of them.
    """

    def __init__(self, kind: str, model: str, *, is_kept: bool = False) -> None:
        self.kind, self.is_kept = kind, is_kept
        self._source, self._name = ("", model) if is_kept else locate(f"provider {kind}", model)

    @property
    def id(self) -> str:
        """Return ``kind:name``; holds no path of this machine."""
        return f"{self.kind}:{self._name}"

    @property
    def device(self) -> str:
        """Return where to run the model: describing many images takes hours without a GPU."""
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def is_local(self) -> bool:
        """Whether nothing may be fetched."""
        return self.is_kept or Path(self._source).is_dir()

    def source(self) -> str:
        """Return what to load.

        Raises:
            TextError: If a checkpoint names a folder's model: only its name is known then, not where it is.
        """
        if self.is_kept and "@" in self._name:
            raise TextError(
                "provider", f"the folder of the model {self._name} (provider={self.kind}:FOLDER)", "its name alone"
            )
        return self._source or self._name
