"""Quality focal loss for soft class targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALPHA = 0.5  # balance of positives and negatives; 0.25, the value of the paper's baseline, learned slower here
BETA = 1.5  # focusing exponent of the paper's baseline


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
    score = logits.sigmoid()
    balance = target * alpha + (1 - target) * (1 - alpha)
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    # |y - s|^beta has no finite slope at zero for beta < 1, hence the floor
    return balance * (target - score).abs().clamp_min(1e-9) ** beta * bce


class QualityFocalLoss(nn.Module):
    """`quality_focal_loss` with a gain that makes it as large as binary cross-entropy on a freshly built net.

    Stands in for the host's ``BCEWithLogitsLoss(reduction="none")``.

    Attributes:
        gain: The factor; None until `calibrate` has seen a batch with positives.
    """

    def __init__(self, alpha: float = ALPHA, beta: float = BETA, gain: float | None = None) -> None:
        """Build the loss; ``gain`` continues an earlier calibration."""
        super().__init__()
        self.alpha, self.beta, self.gain = alpha, beta, gain

    @torch.no_grad()
    def calibrate(self, logits: Tensor, target: Tensor) -> None:
        """Set the gain to the ratio of the two losses' sums over this batch."""
        bce = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        ratio = bce / quality_focal_loss(logits, target, self.alpha, self.beta).sum()
        if torch.distributed.is_available() and torch.distributed.is_initialized():  # equal gains on all workers
            torch.distributed.all_reduce(ratio)
            ratio = ratio / torch.distributed.get_world_size()
        self.gain = float(ratio)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the scaled loss of every element; uncalibrated, the gain is 1 / alpha."""
        if self.gain is None and logits.requires_grad and bool((target > 0).any()):
            self.calibrate(logits.detach(), target)
        gain = self.gain if self.gain is not None else 1 / self.alpha
        return gain * quality_focal_loss(logits, target, self.alpha, self.beta)
