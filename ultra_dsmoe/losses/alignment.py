"""Supervision of the image-text alignment: hub cells inside a box should be nearest to its class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -1  # label of cells outside all boxes


def cell_labels(cls: Tensor, boxes_xywh_norm: Tensor, batch_idx: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Label every cell with the class of the smallest box that covers its centre.

    A box too thin to cover a centre along an axis counts as one cell wide there: a long scratch labels its whole row.

    Args:
        cls: Classes, (M,).
        boxes_xywh_norm: Boxes, centre and size over the image's size, (M, 4).
        batch_idx: Image of each box, (M,).
        shape: (B, H, W) of the grid.

    Returns:
        Labels, long (B, H, W); -1 outside all boxes.
    """
    b, h, w = shape
    labels = torch.full(shape, IGNORE, dtype=torch.long, device=cls.device)
    cx, cy, bw, bh = boxes_xywh_norm.float().unbind(1)
    col = (torch.arange(w, device=cls.device) + 0.5) / w
    row = (torch.arange(h, device=cls.device) + 0.5) / h
    in_x = (col - cx[:, None]).abs() <= bw[:, None] / 2  # (M, W)
    in_y = (row - cy[:, None]).abs() <= bh[:, None] / 2
    # A box's own cell has the centre nearest to it: it adds something only where no centre is covered.
    in_x |= F.one_hot((cx * w).long().clamp(0, w - 1), w).bool()
    in_y |= F.one_hot((cy * h).long().clamp(0, h - 1), h).bool()
    inside = in_y.unsqueeze(2) & in_x.unsqueeze(1)  # (M, H, W)
    area = (bw * bh).view(-1, 1, 1).expand_as(inside).masked_fill(~inside, torch.inf)
    for i in range(b):
        mine = batch_idx == i
        if mine.any():
            least, winner = area[mine].min(0)
            labels[i] = torch.where(least < torch.inf, cls[mine].long()[winner], labels[i])
    return labels


def batch_alignment(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return `alignment_loss` of a batch's logits (B, K, H, W), with the labels of its boxes."""
    cls, boxes, index = (batch[name].to(logits.device) for name in ("cls", "bboxes", "batch_idx"))
    shape = (logits.shape[0], logits.shape[2], logits.shape[3])
    return alignment_loss(logits, cell_labels(cls.view(-1), boxes, index.view(-1), shape))


def alignment_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the class-balanced cross-entropy of the labelled cells.

    Source: [DSMoE] Eq. 13 speaks of alignment without a loss; this term is our choice.

    Args:
        logits: ``-d(v, t_k) / tau``, (B, K, H, W); they get the gradient.
        labels: Long (B, H, W), -1 to ignore.

    Returns:
        Scalar >= 0: the mean over the classes present of each class's mean; 0 without labelled cells.
    """
    ce = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")  # (B, H, W)
    known = labels >= 0
    flat = labels[known]
    count = torch.bincount(flat).to(ce)
    total = torch.zeros_like(count).index_add(0, flat, ce[known])
    return (total / count.clamp_min(1)).sum() / (count > 0).sum().clamp_min(1)
