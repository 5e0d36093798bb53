"""Two small contracts shared by the blocks: auxiliary loss terms and text that can be folded to constants."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class AuxLossMixin:
    """A block that leaves auxiliary terms on itself during a training forward.

    The criterion collects and clears them in the same step. They are dropped when the module is copied or pickled: a
    non-leaf tensor on a module would break the deep copies behind the moving average and the checkpoints.
    """

    aux: dict[str, Tensor] | None = None

    def pop_aux(self) -> dict[str, Tensor]:
        """Return the terms of the last training forward and forget them."""
        aux, self.aux = self.aux or {}, None
        return aux

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the auxiliary terms."""
        return {**self.__dict__, "aux": None}


class TextFoldMixin(nn.Module):
    """A block whose text-dependent tensors may be folded to buffers, since text does not change at inference.

    Subclasses compute them in `text_constants`; `forward` asks for them with `constants`.
    """

    folded: bool = False
    n_constants: int = 0

    def text_constants(self, text: Tensor | None) -> tuple[Tensor, ...]:
        """Compute what depends on the text alone from T, (K, d_t)."""
        raise NotImplementedError(f"{type(self).__name__}.text_constants")

    def constants(self, text: Tensor | None) -> tuple[Tensor, ...]:
        """Return the folded constants, or compute them from ``text``."""
        if self.folded:
            return tuple(getattr(self, f"_folded_{i}") for i in range(self.n_constants))
        return self.text_constants(text)

    @torch.no_grad()
    def fold_text(self, text: Tensor | None) -> None:
        """Store the constants of ``text`` as buffers that follow the module but are not in its state dict."""
        constants = self.text_constants(text)
        self.n_constants = len(constants)
        for i, value in enumerate(constants):
            self.register_buffer(f"_folded_{i}", value.detach().clone(), persistent=False)
        self.folded = True

    def _load_from_state_dict(self, *args: Any) -> None:
        """Take weights as any module does; constants of those before are stale."""
        self.folded = False
        super()._load_from_state_dict(*args)

    def train(self, mode: bool = True) -> TextFoldMixin:
        """Set training mode; constants are stale as soon as parameters may move, so training unfolds."""
        if mode:
            self.folded = False
        return super().train(mode)


def autocast_off(x: Tensor) -> torch.autocast:
    """Return a context in which autocast is off on ``x``'s device: the fp32 island of gate and hyperbolic part."""
    return torch.autocast(x.device.type, enabled=False)
