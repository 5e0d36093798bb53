"""Criterion: the host's detection loss with the quality focal loss in it and the auxiliary terms beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ultra_dsmoe.losses import QualityFocalLoss
from ultra_dsmoe.model.options import check_options, layer_names
from ultra_dsmoe.nn.base import AuxLossMixin
from ultra_dsmoe.nn.contract import AUX_COLUMN


def extra_names(model: nn.Module, options: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the loss items that a net adds to the host's: columns of its blocks' terms, the common last.

    None with the host's own loss, and none where no block has auxiliary terms.

    Args:
        model: The detector.
        options: The model YAML's ``dsmoe:`` section.
    """
    if options.get("loss") == "host":
        return ()
    blocks = [m for m in model.modules() if isinstance(m, AuxLossMixin)]
    columns = {term.column for block in blocks for term in block.aux_terms.values()}
    return tuple(sorted(columns, key=lambda column: (column == AUX_COLUMN, column)))


class DSMoECriterion:
    """Wrap the host's criterion (one-to-many or end-to-end).

    ``L = 7.5 CIoU + .5 g QFL + 1.5 DFL + .5 L_align + .01 L_bal + .05 L_hier + .05 L_ga + .01 L_ort``

    The box terms, the assigner and the gains ``box``, ``cls``, ``dfl`` are the host's (its box loss is CIoU); its
    binary cross-entropy is replaced by the quality focal loss, which g makes as large.

    Source: [DSMoE] Eq. 31-34.
    """

    def __init__(self, model: nn.Module, inner: Any, options: dict[str, Any]) -> None:
        """Wrap ``inner`` for ``model``.

        Args:
            model: The detector; blocks with auxiliary terms are found in it.
            inner: The host's criterion.
            options: The model YAML's ``dsmoe:`` section.

        Raises:
            ConfigError: If the section has a key or value that it cannot have.
        """
        self.inner = inner
        self.blocks = [m for m in model.modules() if isinstance(m, AuxLossMixin)]
        self.gains = check_options(options, layer_names(getattr(model, "yaml", {}))).get("gains") or {}
        self.columns = extra_names(model, options)
        if options.get("cls_loss", "qfl") == "qfl":
            part: Any
            for part in (inner, getattr(inner, "one2many", None), getattr(inner, "one2one", None)):
                if hasattr(part, "bce"):
                    part.bce = QualityFocalLoss(**options.get("qfl", {}))

    def __call__(self, preds: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Any]:
        """Return the host's loss vector with one more entry per column, its loss items likewise; see `extra_names`."""
        if not (sums := self.auxiliary(batch)):
            return self.inner(preds, batch)
        loss, items = self.inner(preds, batch)
        extra = torch.stack([sums[column] for column in self.columns]).to(loss.device)
        loss = torch.cat([loss.reshape(-1), extra * batch["img"].shape[0]])
        detached = extra.detach()
        if isinstance(items, dict):
            return loss, {**items, **dict(zip(self.columns, detached, strict=True))}
        return loss, torch.cat([items, detached])

    def auxiliary(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Collect and clear the blocks' terms; return the sum of those of each column, with their gains."""
        sums = dict.fromkeys(self.columns, batch["img"].new_zeros((), dtype=torch.float32))
        for block in self.blocks:
            for name, loss in block.aux_losses(batch).items():
                term = block.aux_terms[name]
                sums[term.column] = sums[term.column] + self.gains.get(name, term.gain) * loss
        return sums

    def __getattr__(self, name: str) -> Any:
        """Delegate to the host's criterion: its trainer calls ``update`` and reads other attributes."""
        if name == "inner":  # not set yet: a copy in the making
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def updates(self) -> int:
        """Epoch counter of the host's end-to-end criterion; a resumed training sets it."""
        return self.inner.updates

    @updates.setter
    def updates(self, value: int) -> None:
        self.inner.updates = value
