"""The distiller's terms for one level, each a mean over the images of the batch.

The teacher's side gets no gradient: it comes detached. The student's map comes through its adapter.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def mimic_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """Return the mean squared difference of two maps, the plain baseline: >= 0, zero for equal maps.

    Source: [TS] Eq. 5.

    Args:
        teacher: F^T, (B, C, H, W).
        student: f(F^S), same shape; gets the gradient.
    """
    return F.mse_loss(student, teacher)  # [TS] Eq. 5


def foreground_loss(teacher: Tensor, student: Tensor, scale: Tensor, attention: Tensor) -> Tensor:
    """Return the squared difference of two maps, weighted by boxes and by the teacher's attention.

    The equation's two sums, over Mask and over 1 - Mask, have the same summand, and the scale mask tells foreground
    from background already: they are one sum over all cells.

    Source: [TS] Eq. 11. Ours: A is the teacher's, the mean over images.

    Args:
        teacher: F^T, (B, C, H, W).
        student: f(F^S), same shape; gets the gradient.
        scale: `scale_mask`, (B, 1, H, W).
        attention: A(F^T), (B, C, H, W).

    Returns:
        A number >= 0, about (boxes per image + 1) times the mean squared difference.
    """
    weighted = (attention * (teacher - student).square()).mean(1, keepdim=True)  # 1/C times the sum over channels
    return (scale * weighted).sum((1, 2, 3)).mean()  # [TS] Eq. 11


def attention_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """Return the mean smooth L1 difference of two attention masks, A(F^T) and A(f(F^S)), (B, C, H, W).

    Source: [TS] Eq. 12.
    """
    return F.smooth_l1_loss(student, teacher)  # [TS] Eq. 12


def global_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """Return the mean squared difference of two attentions, M(F^T) and M(f(F^S)), (B, C, H, W).

    Source: [TS] Eq. 13.
    """
    return F.mse_loss(student, teacher)  # [TS] Eq. 13
