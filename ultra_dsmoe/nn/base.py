"""Small contracts shared by the blocks: auxiliary loss terms, run-time settings, text folded to constants."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ultra_dsmoe.errors import ConfigError, did_you_mean
from ultra_dsmoe.nn.contract import AuxTerm


class AuxLossMixin:
    """A block that leaves auxiliary terms on itself during a training forward.

    ``self.aux = {"name": tensor}`` leaves them; the class says in ``aux_terms`` what becomes of each. The criterion
    collects and clears them in the same step. They are dropped when the module is copied or pickled: a non-leaf tensor
    on a module would break the deep copies behind the moving average and the checkpoints.

    Attributes:
        aux_terms: The terms by name.
        aux: What the last training forward left.
    """

    aux_terms: ClassVar[Mapping[str, AuxTerm]] = MappingProxyType({})
    aux: dict[str, Tensor] | None = None

    def pop_aux(self) -> dict[str, Tensor]:
        """Return the terms of the last training forward and forget them."""
        aux, self.aux = self.aux or {}, None
        return aux

    def aux_losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms of the last training forward as scalars without gains, in fp32, and forget them.

        Args:
            batch: Images and labels of that forward, as the host's data set gives them.

        Raises:
            ConfigError: If the block left a term that its class does not declare.
        """
        losses = {}
        for name, left in self.pop_aux().items():
            if (term := self.aux_terms.get(name)) is None:
                known = ", ".join(self.aux_terms) or "none"
                expected = f"names out of its aux_terms ({known}){did_you_mean(name, self.aux_terms)}"
                raise ConfigError(f"auxiliary terms of {type(self).__name__}", expected, name)
            losses[name] = left.float() if term.loss is None else term.loss(left, batch)
        return losses

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the auxiliary terms."""
        return {**self.__dict__, "aux": None}


class SettingsMixin:
    """A block with settings that may be changed for one call, and are put back behind it.

    Attributes:
        run_settings: Names of the attributes.
    """

    run_settings: ClassVar[tuple[str, ...]] = ()

    def read_settings(self) -> dict[str, Any]:
        """Return the settings that the block has now."""
        return {name: getattr(self, name) for name in self.run_settings}

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Take what `read_settings` returned, of this block or of one built alike."""
        for name, value in settings.items():
            setattr(self, name, value)


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
