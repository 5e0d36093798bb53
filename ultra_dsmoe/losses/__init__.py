"""Losses on tensors: none of them sees a trainer or a model."""

from ultra_dsmoe.losses.alignment import alignment_loss, batch_alignment, cell_labels
from ultra_dsmoe.losses.image_text import contrastive, self_similarity
from ultra_dsmoe.losses.quality_focal import QualityFocalLoss, quality_focal_loss

__all__ = [
    "QualityFocalLoss",
    "alignment_loss",
    "batch_alignment",
    "cell_labels",
    "contrastive",
    "quality_focal_loss",
    "self_similarity",
]
