"""Quality focal loss for soft class targets."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

ALPHA = 0.5  # balance of positives and negatives; 0.25, the value of the paper's baseline, learned slower here
BETA = 1.5  # focusing exponent of the paper's baseline
_EPS = 1e-9  # |y - s|^beta has no finite slope at zero for beta < 1; also against a division by zero


def focal_weight(logits: Tensor, target: Tensor, alpha: float = ALPHA, beta: float = BETA) -> Tensor:
    """Return ``a_t |y - s|^beta`` with ``a_t = y alpha + (1 - y)(1 - alpha)``, the weight of each cross-entropy."""
    balance = target * alpha + (1 - target) * (1 - alpha)
    return balance * (target - logits.sigmoid()).abs().clamp_min(_EPS) ** beta


def quality_focal_loss(logits: Tensor, target: Tensor, alpha: float = ALPHA, beta: float = BETA) -> Tensor:
    """Return the quality focal loss of every element.

    ``-a_t |y - s|^beta [(1 - y) log(1 - s) + y log s]`` with ``a_t = y alpha + (1 - y)(1 - alpha)``.

    Source: [DSMoE] Eq. 32.

    Args:
        logits: Class logits, any shape; they get the gradient.
        target: Soft targets y in [0, 1], same shape.
        alpha: Weight of positives, in [0, 1].
        beta: Focusing exponent, >= 0; 0 leaves the balanced cross-entropy.

    Returns:
        Losses >= 0, same shape; zero where the score equals a target of 0 or 1.
    """
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return focal_weight(logits, target, alpha, beta) * bce


class QualityFocalLoss(nn.Module):
    """`quality_focal_loss`, scaled so that each batch's sum is that of binary cross-entropy.

    Stands in for the host's ``BCEWithLogitsLoss(reduction="none")``: the host's class gain keeps its meaning, and the
    focusing decides only how the loss is shared out. The scale is a constant to the gradient.

    A gain calibrated once, on a freshly built net, does not do: with small defects the first boxes are ten times too
    large, so the first targets are hundredths, ``|y - s|^1.5`` a thousandth, and the gain comes out in the thousands;
    it is ruinous as soon as the targets grow. Uncalibrated, the classes start to learn only when the boxes fit.
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
        return focal * (bce.detach().sum() / focal.detach().sum().clamp_min(_EPS))
