"""Quality focal loss for soft class targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALPHA = 0.5  # balance of positives and negatives; the dsmoe YAMLs have 0.25, which the paper's baseline has
BETA = 0.5  # focusing exponent; at 1.5, the paper's baseline's, learning began later (docs/results/log.md)
_MAX_SCALE = 50.0  # positives that are all but learned need no more
_ON_TARGET = 1e-4  # scores this near count as on target: below 1, beta gives |y - s|^beta no finite slope at zero
_EPS = 1e-9  # against a division by zero


def focal_weight(logits: Tensor, target: Tensor, alpha: float = ALPHA, beta: float = BETA) -> Tensor:
    """Return ``a_t |y - s|^beta`` with ``a_t = y alpha + (1 - y)(1 - alpha)``, the weight of each cross-entropy."""
    balance = target * alpha + (1 - target) * (1 - alpha)
    return balance * (target - logits.sigmoid()).abs().clamp_min(_ON_TARGET) ** beta


def quality_focal_loss(logits: Tensor, target: Tensor, alpha: float = ALPHA, beta: float = BETA) -> Tensor:
    """Return the quality focal loss of every element.

    ``-a_t |y - s|^beta [(1 - y) log(1 - s) + y log s]`` with ``a_t = y alpha + (1 - y)(1 - alpha)``.

    Source: [TS] Eq. 14, as which [DSMoE] Eq. 32 is read. Neither gives alpha and beta.

    Args:
        logits: Class logits, any shape; they get the gradient.
        target: Soft targets y in [0, 1], same shape.
        alpha: Weight of positives, in [0, 1].
        beta: Focusing exponent, >= 0; 0 leaves the balanced cross-entropy.

    Returns:
        Losses >= 0, same shape; zero where the score is a target of 0 or 1, flat within 1e-4 of any other target.
    """
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return focal_weight(logits, target, alpha, beta) * bce


class QualityFocalLoss(nn.Module):
    """`quality_focal_loss`, scaled so that each batch's positives weigh what they weigh in binary cross-entropy.

    Stands in for the host's ``BCEWithLogitsLoss(reduction="none")``: the host's class gain keeps its meaning, and the
    focusing decides how much hard and easy negatives weigh beside the positives. The scale is a constant to the
    gradient.

    Other calibrations that were tried did harm (docs/results/log.md). A gain found once, on a freshly built net: with
    small defects the first boxes are ten times too large, so the first targets are hundredths, ``|y - s|^1.5`` a
    thousandth, and the gain comes out in the thousands. Equal sums over all elements: easy negatives, which focusing
    leaves alone, keep a large cross-entropy, so classes outweigh boxes and both are learned later.
    """

    def __init__(self, alpha: float = ALPHA, beta: float = BETA) -> None:
        """Build the loss; the arguments are those of `quality_focal_loss`."""
        super().__init__()
        self.alpha, self.beta = alpha, beta

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the scaled loss of every element, in fp32 (the sums of small terms need it)."""
        logits, target = logits.float(), target.float()
        bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        focal = focal_weight(logits, target, self.alpha, self.beta) * bce
        positive = (target > 0).to(bce) if (target > 0).any() else torch.ones_like(bce)
        scale = (bce.detach() * positive).sum() / (focal.detach() * positive).sum().clamp_min(_EPS)
        return focal * scale.clamp_max(_MAX_SCALE)
