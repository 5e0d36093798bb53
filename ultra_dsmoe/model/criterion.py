"""Criterion: the host's detection loss with the quality focal loss in it and the auxiliary terms beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ultra_dsmoe.losses import QualityFocalLoss, alignment_loss, cell_labels
from ultra_dsmoe.model.options import check_options, merged_gains
from ultra_dsmoe.nn.base import AuxLossMixin

EXTRA_NAMES = ("align_loss", "aux_loss")


def extra_names(model: nn.Module, options: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the loss items that a net adds to the host's.

    None with the host's own loss, and none where no block has auxiliary terms.

    Args:
        model: The detector.
        options: The model YAML's ``dsmoe:`` section.
    """
    has_terms = any(isinstance(m, AuxLossMixin) for m in model.modules())
    return EXTRA_NAMES if has_terms and options.get("loss") != "host" else ()


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
        self.gains = merged_gains(check_options(options).get("gains"))
        if options.get("cls_loss", "qfl") == "qfl":
            part: Any
            for part in (inner, getattr(inner, "one2many", None), getattr(inner, "one2one", None)):
                if hasattr(part, "bce"):
                    part.bce = QualityFocalLoss(**options.get("qfl", {}))

    def __call__(self, preds: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Any]:
        """Return the host's loss vector with two more entries, and its loss items likewise; see `extra_names`."""
        if not self.blocks:
            return self.inner(preds, batch)
        align, rest = self.auxiliary(batch)
        loss, items = self.inner(preds, batch)
        extra = torch.stack([align, rest]).to(loss.device)
        loss = torch.cat([loss.reshape(-1), extra * batch["img"].shape[0]])
        detached = extra.detach()
        if isinstance(items, dict):
            return loss, {**items, **dict(zip(EXTRA_NAMES, detached, strict=True))}
        return loss, torch.cat([items, detached])

    def auxiliary(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Collect and clear the blocks' terms; return the scaled alignment loss and the scaled sum of the others."""
        zero = batch["img"].new_zeros((), dtype=torch.float32)
        align, rest = zero, zero
        for block in self.blocks:
            for name, term in block.pop_aux().items():
                if name == "align_logits":
                    shape = (term.shape[0], term.shape[2], term.shape[3])
                    boxes = [batch[k].to(term.device) for k in ("cls", "bboxes", "batch_idx")]
                    labels = cell_labels(boxes[0].view(-1), boxes[1], boxes[2].view(-1), shape)
                    align = align + self.gains["align"] * alignment_loss(term, labels)
                else:
                    rest = rest + self.gains[name] * term.float()
        return align, rest

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
