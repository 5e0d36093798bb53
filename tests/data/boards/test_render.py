"""The photograph of a board: what shows where, which light falls on it, and that a seed repeats it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ultra_dsmoe.data.boards import render
from ultra_dsmoe.data.boards.layout import Layout
from ultra_dsmoe.data.boards.render import (
    BARREL,
    BASE,
    GREY_SHARE,
    HOLE,
    LAMINATE,
    METAL,
    OUTSIDE,
    PRINT,
    TRACE,
    photograph,
)

SIZE = 64


def mask(*areas: tuple[slice, slice]) -> np.ndarray:
    out = np.zeros((SIZE, SIZE), np.uint8)
    for area in areas:
        out[area] = 1
    return out


@pytest.fixture
def layout() -> Layout:
    """A trace, a pad with a drilled hole, a printed mark and the edge of the board, apart from one another."""
    hole = mask(np.s_[40:50, 10:20])
    pad = mask(np.s_[34:56, 4:26]) & (1 - hole)
    copper = mask(np.s_[8:16, 0:48]) | pad
    silk, outside = mask(np.s_[24:28, 40:48]), mask(np.s_[:, 58:])
    return Layout(copper, hole, pad, silk, outside, np.array([[15, 45, 10]]), scale=1.0)


def look(seed: int) -> render._Look:
    return render._draw_look(np.random.default_rng(seed))


def first(kind: str) -> render._Look:
    """Return the first look that is grey, finished, or bare in colour."""
    return next(
        x
        for x in map(look, range(200))
        if (x.grey, x.finished) == {"grey": (1, 0), "finished": (0, 1), "bare": (0, 0)}[kind]
    )


def test_kinds_of_pictures_come_in_their_shares() -> None:
    looks = [look(seed) for seed in range(1000)]
    assert sum(x.grey for x in looks) / 1000 == pytest.approx(GREY_SHARE, abs=0.05)
    assert not any(x.grey and x.finished for x in looks)
    colour = [x for x in looks if not x.grey]
    assert sum(x.finished for x in colour) / len(colour) == pytest.approx(0.85, abs=0.05)


@pytest.mark.parametrize("seed", range(30))
def test_copper_is_brighter_than_its_ground_and_holes_are_dark(seed: int) -> None:
    x = look(seed)
    light = x.palette.astype(int).sum(1)
    assert x.palette.shape == (8, 3)
    assert x.palette.dtype == np.uint8
    assert light[TRACE] > light[BASE]
    assert light[HOLE] < light[BARREL] < light[METAL]
    if x.grey:
        assert (x.palette == x.palette[:, :1]).all()


def test_materials_of_a_finished_board(layout: Layout) -> None:
    material = render._materials(layout, layout.copper, first("finished"))
    assert material[12, 10] == TRACE
    assert material[20, 50] == BASE
    assert material[36, 6] == METAL  # the pad's copper
    assert material[32, 10] == LAMINATE  # the mask's opening is wider than the pad, by three pixels
    assert material[30, 10] == BASE
    assert material[26, 44] == PRINT
    assert material[41, 11] == BARREL  # light from the lower right does not reach the upper left wall ...
    assert material[48, 18] == HOLE  # ... behind which the hole is deep
    assert (material[:, 58:] == OUTSIDE).all()


def test_materials_of_a_bare_panel(layout: Layout) -> None:
    for kind in ("grey", "bare"):
        material = render._materials(layout, layout.copper, first(kind))
        assert set(np.unique(material)) == {BASE, TRACE, BARREL, HOLE, OUTSIDE}
        assert (material[layout.pads > 0] == TRACE).all()


def test_the_copper_that_is_shown_is_the_one_given(layout: Layout) -> None:
    """A defect changes the picture where it lies; copper that runs into a hole fills it."""
    broken = layout.copper.copy()
    broken[8:16, 20:24] = 0
    short = layout.copper | layout.holes
    for kind in ("grey", "finished"):
        sound = render._materials(layout, layout.copper, first(kind))
        changed = render._materials(layout, broken, first(kind)) != sound
        assert changed[8:16, 20:24].all()
        assert changed.sum() == 8 * 4
        filled = render._materials(layout, short, first(kind))
        assert not np.isin(filled, [HOLE, BARREL]).any()


@pytest.mark.parametrize("seed", range(8))
def test_a_photograph_of_every_kind(layout: Layout, seed: int) -> None:
    image = photograph(np.random.default_rng(seed), layout, layout.copper)
    grey = look(seed).grey
    assert image.dtype == np.uint8
    assert image.shape == ((SIZE, SIZE) if grey else (SIZE, SIZE, 3))
    assert np.array_equal(image, photograph(np.random.default_rng(seed), layout, layout.copper))
    assert not np.array_equal(image, photograph(np.random.default_rng(seed + 100), layout, layout.copper))
    light = image.reshape(SIZE, SIZE, -1).astype(float).mean(2)
    assert light[9:15, 30:46].mean() > light[18:22, 30:46].mean() + 10, "the trace stands out"


def test_light_stays_near_one_and_only_line_scans_have_stripes() -> None:
    rng = np.random.default_rng(0)
    smooth, striped = (render._light(rng, 256, first(kind)) for kind in ("finished", "grey"))
    for light in (smooth, striped):
        assert light.dtype == np.float32
        assert 0.4 < light.min() < light.max() < 1.6
    # a stripe is a column's own factor: neighbouring columns differ by more than neighbouring rows
    rough = [np.abs(np.diff(light, axis=axis)).mean() for light in (smooth, striped) for axis in (1, 0)]
    assert rough[0] < 2 * rough[1]
    assert rough[2] > 4 * rough[3]


def test_texture_lies_on_laminate_and_metal_alone() -> None:
    rng = np.random.default_rng(0)
    spread = [render._texture(rng, np.full((128, 128), m, np.uint8)).std() for m in range(8)]
    assert spread[BARREL] == spread[HOLE] == 0
    assert spread[LAMINATE] > spread[BASE] > spread[TRACE] / 3
    assert spread[METAL] == max(spread)


def test_relief_lies_on_the_flanks() -> None:
    copper = mask(np.s_[20:44, 20:44])
    relief = render._relief(np.random.default_rng(0), copper)
    assert np.abs(relief[30:34, 30:34]).max() < 0.05
    assert np.abs(relief[:10]).max() < 0.05
    assert np.abs(relief).max() > 2
    # opposite flanks catch and lose the same light
    np.testing.assert_allclose(relief[32, :32], -relief[32, 63:31:-1], atol=1e-3)
    assert render._relief(np.random.default_rng(0), np.zeros_like(copper)).max() == 0


def test_a_larger_scale_opens_the_mask_wider(layout: Layout) -> None:
    opened = [
        (render._materials(replace(layout, scale=s), layout.copper, first("finished")) == LAMINATE).sum()
        for s in (0.35, 1.0, 1.5)
    ]
    assert opened[0] < opened[1] < opened[2]
