"""Loss of a classifier that texts teach: which one depends on the phase of the training.

Source: [PFA] Sec. 3.2 to 3.4.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ultra_dsmoe.losses.image_text import contrastive
from ultra_dsmoe.model.pair_options import PairOptions
from ultra_dsmoe.nn.head.pair_classify import ALIGNMENT, WARM_UP, PairClassify, PairOutputs

NAMES = ("loss", "align_vlm", "align_llm")  # of the loss items, in every phase


class PairCriterion:
    """Warm-up: cross-entropy of each encoder's own classifier, summed. Alignment: both texts'. Fusion: cross-entropy.

    Source: [PFA] Eq. 5.
    """

    def __init__(self, head: PairClassify, options: PairOptions, inner: Any) -> None:
        """Remember the head, which knows the phase and the temperature.

        Args:
            head: Of the net.
            options: The net's.
            inner: The host's criterion; the form of its loss items is the host's.
        """
        self.head, self.options, self.inner = head, options, inner

    def __call__(self, preds: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Any]:
        """Return the loss of the phase and its items, in the host's form.

        Args:
            preds: What the head returned, in training or in evaluation.
            batch: ``cls`` (B,); in training also ``groups`` (B, 2) and ``turn`` (B,), see `PairDataset`.
        """
        if not isinstance(preds, PairOutputs):  # a validation
            loss, items = self.inner(preds, batch)
            return self._items(loss, items, loss.new_zeros(()), loss.new_zeros(()))
        phase, targets = self.head.phase, batch["cls"]
        vlm = llm = targets.new_zeros((), dtype=torch.float32)
        if phase == WARM_UP:
            total = torch.stack([F.cross_entropy(z, targets) for z in preds.warm if z is not None]).sum()
        elif phase == ALIGNMENT:
            vlm, llm = self._aligned(preds, batch)
            total = vlm + llm
            if self.options.ce:
                own = preds.warm[0]
                assert own is not None  # of the image, which is always there
                total = total + self.options.ce * F.cross_entropy(own, targets)
        else:
            total = F.cross_entropy(preds.logits, targets)
        _, items = self.inner(preds.logits.detach(), batch)
        return self._items(total, items, vlm, llm)

    def _aligned(self, preds: PairOutputs, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the alignment with both texts, Eq. 4; where the passes alternate, each image counts for one."""
        terms = []
        for column, (text, turn) in enumerate(((preds.vlm, 1), (preds.llm, 0))):  # the record's text comes first
            mine = torch.ones_like(batch["turn"], dtype=torch.bool)
            if self.options.passes == "sequential":
                mine = batch["turn"] == turn
            assert text is not None  # or the images came without
            if not mine.any():
                terms.append(preds.image.sum() * 0.0)
                continue
            groups = batch["groups"][:, column]
            terms.append(contrastive(preds.image[mine], text[mine], self.head.tau, groups[mine]))
        return terms[0], terms[1]

    @staticmethod
    def _items(total: Tensor, items: Any, vlm: Tensor, llm: Tensor) -> tuple[Tensor, Any]:
        """Return the loss with its items as the host has them: a mapping, or on older hosts one tensor."""
        values = [total.detach(), vlm.detach(), llm.detach()]
        if isinstance(items, dict):
            return total, dict(zip(NAMES, values, strict=True))
        return total, torch.stack([value.float() for value in values])
