"""The grid of the generated boards: traces end in vias or run off the picture, whatever the pitch and the shift."""

from __future__ import annotations

import numpy as np
import pytest

from ultra_dsmoe.data.boards.layout import _Builder, lay_out


@pytest.mark.parametrize("size", [96, 320, 640])
def test_the_ring_of_cells_lies_off_the_picture_and_the_rest_covers_it(size: int) -> None:
    for seed in range(20):
        board = _Builder(np.random.default_rng(seed), size)
        x = [board.px(column, 0)[0] for column in range(board.cells)]
        assert x[0] < 0
        assert x[-1] >= size
        assert 0 <= x[1] < board.pitch
        assert x[-2] >= size - board.pitch


def test_a_cell_beside_an_edge_bus_is_blocked_on_the_ring_too() -> None:
    board = _Builder(np.random.default_rng(0), 640)
    board.copper[:, 630:] = 1  # off the picture nothing is known: the rim's copper is taken to go on
    board.block_by_pixels()
    assert all(not board.free(board.cells - 1, row) for row in range(board.cells))
    assert board.free(1, 1)


def test_masks_exclude_each_other() -> None:
    layout = lay_out(np.random.default_rng(1), 320)
    assert layout.copper.any()
    assert layout.holes.any()
    assert not (layout.copper & (layout.holes | layout.outside)).any()
    assert not (layout.silk & (layout.pads | layout.holes)).any()
