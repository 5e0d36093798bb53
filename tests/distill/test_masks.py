"""Masks on a 4x4 grid, counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ultra_dsmoe.distill import cell_boxes, foreground_mask, scale_mask

GRID = (4, 4)
LARGE = [0.5, 0.5, 0.9, 0.9]  # 0.05 to 0.95: all 16 cells
WIDE = [0.375, 0.25, 0.75, 0.5]  # columns 0-2, rows 0-1: 6 cells
TALL = [0.5, 0.5, 0.5, 1.0]  # columns 1-2, all rows: 8 cells
DOT = [0.62, 0.62, 0.01, 0.01]  # within cell (2, 2), smaller than a cell


def scale(*boxes: list[float]) -> Tensor:
    return scale_mask(torch.tensor(boxes).view(-1, 4), torch.zeros(len(boxes)), 1, GRID)[0, 0]


@pytest.mark.parametrize(
    ("box", "cells"),
    [
        (LARGE, [0, 0, 4, 4]),
        (WIDE, [0, 0, 3, 2]),
        (TALL, [1, 0, 3, 4]),
        (DOT, [2, 2, 3, 3]),
        ([0.5, 0.5, 0.0, 0.0], [2, 2, 3, 3]),  # no extent on an edge between cells
        ([1.0, 1.0, 0.0, 0.0], [3, 3, 4, 4]),  # on the image's corner
        ([0.0, 0.0, 0.2, 0.2], [0, 0, 1, 1]),  # half outside
        ([0.5, 0.5, 3.0, 3.0], [0, 0, 4, 4]),  # larger than the image
        ([0.3, 0.3, 0.4, 0.4], [0, 0, 2, 2]),  # 0.1 to 0.5: ends on an edge but for rounding
    ],
)
def test_cells_of_a_box(box: list[float], cells: list[int]) -> None:
    assert cell_boxes(torch.tensor(box), GRID).tolist() == cells


def test_edges_on_cells_add_none_at_any_size() -> None:
    """Centre and size as the host writes them: rounding must not add a cell."""
    for n in (5, 20, 40, 80, 160):
        first = torch.arange(n - 1) / n
        boxes = torch.stack([first + 0.5 / n, first + 0.5 / n, torch.full_like(first, 1 / n), first * 0 + 1 / n], 1)
        cells = cell_boxes(boxes, (n, n))
        assert torch.equal(cells[:, 2:] - cells[:, :2], torch.ones(n - 1, 2))


def test_on_a_fine_grid_every_cell_is_counted() -> None:
    assert cell_boxes(torch.tensor([0.5, 0.5, 0.5, 0.3]), (20, 20)).tolist() == [5, 7, 15, 13]


def test_a_cell_counts_from_a_thousandth_on() -> None:
    for beyond, cells in ((0.005, [0, 1, 3, 4]), (0.0005, [1, 2, 2, 3])):
        size = 2 * (0.5 + beyond) / 4
        assert cell_boxes(torch.tensor([1.5 / 4, 2.5 / 4, size, size]), GRID).tolist() == cells


def test_boxes_in_half_precision_are_placed_in_full() -> None:
    boxes = torch.rand(50, 4).half()
    assert torch.equal(cell_boxes(boxes, (160, 160)), cell_boxes(boxes.float(), (160, 160)))


def test_a_grid_that_is_not_square() -> None:
    assert cell_boxes(torch.tensor([0.5, 0.5, 0.5, 0.5]), (2, 8)).tolist() == [2, 0, 6, 2]


def test_foreground_by_hand() -> None:
    boxes = torch.tensor([WIDE, DOT])
    expected = [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    mask = foreground_mask(boxes, torch.zeros(2), 1, GRID)
    assert mask[0, 0].tolist() == expected
    assert (mask.shape, mask.dtype) == ((1, 1, 4, 4), torch.float32)


def test_scale_by_hand() -> None:
    """Two overlapping boxes, 6 and 8 cells: the 4 cells in both belong to the one of 6."""
    a, b, out = 1 / 6, 1 / 8, 1 / 6  # 16 - 6 - 8 + 4 = 6 cells of background
    expected = [[a, a, a, out], [a, a, a, out], [out, b, b, out], [out, b, b, out]]
    torch.testing.assert_close(scale(WIDE, TALL), torch.tensor(expected))
    torch.testing.assert_close(scale(TALL, WIDE), torch.tensor(expected))


def test_a_small_box_in_a_large_one_wins() -> None:
    got = scale(LARGE, DOT)
    assert got[2, 2] == 1
    got[2, 2] = 1 / 16
    assert torch.all(got == 1 / 16)  # no background: its denominator is 1 and no cell uses it


def test_a_background_of_one_cell_weighs_one() -> None:
    rows, rest = [0.5, 0.375, 1.0, 0.75], [0.375, 0.875, 0.75, 0.25]  # rows 0-2; columns 0-2 of row 3
    torch.testing.assert_close(scale(rows, rest)[3], torch.tensor([1 / 3, 1 / 3, 1 / 3, 1]))


def test_without_boxes_all_is_background() -> None:
    assert torch.all(scale() == 1 / 16)
    assert not foreground_mask(torch.zeros(0, 4), torch.zeros(0), 2, GRID).any()


def test_images_keep_their_boxes() -> None:
    boxes, index = torch.tensor([DOT, WIDE, TALL, DOT]), torch.tensor([2.0, 0.0, 0.0, 2.0])  # not in order, one empty
    got = scale_mask(boxes, index, 3, GRID)
    for image, own in enumerate(([WIDE, TALL], [], [DOT])):
        torch.testing.assert_close(got[image, 0], scale(*own))


def test_many_boxes_as_one_by_one() -> None:
    """More than are computed at once."""
    boxes = torch.cat([0.2 + 0.6 * torch.rand(50, 2), 0.05 + 0.5 * torch.rand(50, 2)], 1)
    expected = torch.zeros(9, 7)
    for x1, y1, x2, y2 in cell_boxes(boxes, (9, 7)).int().tolist():
        cells = expected[y1:y2, x1:x2]
        cells.copy_(torch.maximum(cells, torch.full_like(cells, 1 / ((x2 - x1) * (y2 - y1)))))
    outside = (expected == 0).float()
    expected += outside / outside.sum().clamp_min(1)
    torch.testing.assert_close(scale_mask(boxes, torch.zeros(50), 1, (9, 7))[0, 0], expected)


def test_every_box_and_the_background_weigh_one() -> None:
    apart = [[0.125, 0.125, 0.2, 0.2], [0.75, 0.75, 0.5, 0.5]]
    assert scale(*apart).sum() == pytest.approx(3)
