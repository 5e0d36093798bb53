"""Masks of a level's grid, made from the labelled boxes: what is foreground, and how much a cell of it weighs."""

from __future__ import annotations

import torch
from torch import Tensor

_EDGE = 1e-3  # cells by which rounding may move a box's edge over a cell's without adding that cell
_AT_ONCE = 8  # boxes per image and step: bounds the memory of crowded images


def cell_boxes(boxes_xywh_norm: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the cells that boxes touch: floor of their beginning, ceiling of their end, at least one each way.

    Args:
        boxes_xywh_norm: Centre and size as shares of the image, (..., 4).
        shape: H and W of the grid.

    Returns:
        First and past-the-end column and row (x1, y1, x2, y2), whole numbers within the grid, (..., 4).
    """
    h, w = shape
    boxes = boxes_xywh_norm.float()
    size = boxes.new_tensor([w, h])
    half = boxes[..., 2:] / 2
    first = torch.floor((boxes[..., :2] - half) * size + _EDGE)
    last = torch.ceil((boxes[..., :2] + half) * size - _EDGE)
    first = torch.minimum(first.clamp_min(0), size - 1)
    last = torch.minimum(torch.maximum(last, first + 1), size)
    return torch.cat([first, last], -1)


def foreground_mask(boxes_xywh_norm: Tensor, image_index: Tensor, images: int, shape: tuple[int, int]) -> Tensor:
    """Return 1 in cells that any box touches and 0 elsewhere, (B, 1, H, W).

    Source: [TS] Eq. 6. Arguments as of `scale_mask`.
    """
    return (_box_weight(boxes_xywh_norm, image_index, images, shape) > 0).float()  # [TS] Eq. 6


def scale_mask(boxes_xywh_norm: Tensor, image_index: Tensor, images: int, shape: tuple[int, int]) -> Tensor:
    """Return what a cell weighs: every box counts as much as every other, and as much as all background together.

    Inside a box 1 / (its cells), outside all boxes 1 / (cells of the background). A cell in several boxes belongs to
    the smallest of them.

    Source: [TS] Eq. 7, 8. Ours: sizes in cells, denominators of at least 1.

    Args:
        boxes_xywh_norm: Boxes of all images, centre and size as shares of the image, (N, 4).
        image_index: Image of each box, (N,).
        images: B, how many images there are; those without a box are background.
        shape: H and W of the grid.

    Returns:
        Weights > 0, (B, 1, H, W).
    """
    inside = _box_weight(boxes_xywh_norm, image_index, images, shape)
    background = inside == 0
    outside = background / background.sum((2, 3), keepdim=True).clamp_min(1)
    return inside + outside  # [TS] Eq. 7


def _box_weight(boxes: Tensor, image_index: Tensor, images: int, shape: tuple[int, int]) -> Tensor:
    """Return 1 / (cells of the smallest box on a cell), 0 where there is none, (B, 1, H, W)."""
    h, w = shape
    weight = boxes.new_zeros((images, 1, h, w), dtype=torch.float32)
    edges = _by_image(cell_boxes(boxes, shape), image_index.long().view(-1), images)
    x, y = torch.arange(w, device=boxes.device), torch.arange(h, device=boxes.device)
    x1, y1, x2, y2 = (e[..., None] for e in edges.unbind(-1))
    across, down = (x >= x1) & (x < x2), (y >= y1) & (y < y2)  # (B, M, W), (B, M, H)
    share = 1 / ((x2 - x1) * (y2 - y1)).clamp_min(1)  # (B, M, 1)
    for part in range(0, edges.shape[1], _AT_ONCE):
        some = slice(part, part + _AT_ONCE)
        cells = (down[:, some] * share[:, some])[..., None] * across[:, some, None, :]  # (B, m, H, W)
        weight = torch.maximum(weight, cells.amax(1, keepdim=True))  # [TS] Eq. 8: the smallest box has the largest
    return weight


def _by_image(rows: Tensor, image_index: Tensor, images: int) -> Tensor:
    """Spread (N, 4) over (B, M, 4), M the most rows of an image; those that an image lacks are 0, boxes of no cell."""
    order = torch.argsort(image_index)
    rows, image_index = rows[order], image_index[order]
    counts = torch.bincount(image_index, minlength=images)
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[image_index]
    spread = rows.new_zeros((images, int(counts.max()), 4))
    spread[image_index, place] = rows
    return spread
