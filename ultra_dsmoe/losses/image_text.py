"""Alignment of pictures with their texts: the contrastive loss, and how much a picture is like its texts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive(image: Tensor, text: Tensor, tau: Tensor | float, groups: Tensor) -> Tensor:
    """Return how badly images find their texts in a batch, and texts their images.

    Equal texts share what is to be found: told apart they cannot be, and the usual targets would punish that.

    Source: [PFA] Eq. 3, 4; cosine and shared targets are our choice.

    Args:
        image: Vectors of the images, (B, c).
        text: Vectors of their texts, (B, c).
        tau: Temperature, a scalar.
        groups: Whole numbers (B,), the same for equal texts.

    Returns:
        Scalar >= 0 in fp32, the mean of both directions; 0 for a single pair.
    """
    with torch.autocast(image.device.type, enabled=False):
        logits = F.normalize(image.float(), dim=1) @ F.normalize(text.float(), dim=1).T / tau  # (B, B)
        same = (groups.unsqueeze(1) == groups).to(logits)
        target = same / same.sum(1, keepdim=True)  # symmetric, so it is that of both directions
        both = F.log_softmax(logits, 1) + F.log_softmax(logits, 0)  # an image's texts; a text's images
        return -(target * both).sum(1).mean() / 2


def self_similarity(image: Tensor, vlm: Tensor, llm: Tensor) -> Tensor:
    """Return the mean cosine of images with their two texts, (B,), from -1 to 1 in fp32.

    Source: our reading of [PFA], which orders pairs by their similarity without a formula.

    Args:
        image: Vectors of the images, (B, c).
        vlm: Vectors of the texts about the pictures, (B, c).
        llm: Vectors of the texts about the records, (B, c).
    """
    image, vlm, llm = image.float(), vlm.float(), llm.float()
    return (F.cosine_similarity(image, vlm) + F.cosine_similarity(image, llm)) / 2
