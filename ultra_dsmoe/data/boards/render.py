"""From the masks of a generated board to a photograph of it: materials, light, lens and sensor.

Two kinds of picture: colour photographs of finished boards (solder mask, metal finish, print) and grey line scans of
etched panels (bright copper on dark laminate, no mask, no print). A second board of a product can be photographed under
the same camera and light: it lies elsewhere by a few pixels, and has texture, exposure and noise of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ultra_dsmoe.data.boards.layout import Layout

GREY_SHARE = 0.4
MAX_SHIFT = 3.0  # pixels between two boards of a product under one camera, our choice
EXPOSURES = (0.8, 1.25)  # of the second board, relative to the first
NOISE = (1.5, 4.5)  # standard deviation in grey levels
# Materials, the order of the palette's rows.
BASE, TRACE, LAMINATE, METAL, PRINT, BARREL, HOLE, OUTSIDE = range(8)
Colour = tuple[int, int, int]  # BGR
# Bare solder mask and mask over copper; values as in photographs of boards under diffuse light.
MASKS: tuple[tuple[Colour, Colour], ...] = (
    ((34, 72, 22), (78, 150, 72)),
    ((48, 82, 14), (96, 160, 66)),
    ((28, 58, 30), (70, 128, 84)),
    ((92, 42, 10), (178, 106, 44)),
    ((24, 20, 112), (62, 58, 198)),
    ((26, 26, 28), (108, 104, 102)),
    ((78, 24, 72), (150, 74, 140)),
)
UNMASKED = ((86, 122, 128), (82, 120, 186))  # laminate and copper of a colour photograph without mask
FINISHES: tuple[Colour, ...] = ((96, 186, 226), (196, 202, 206), (98, 136, 192))  # gold, tin, bare copper
PRINTS: tuple[Colour, ...] = ((226, 230, 230), (226, 230, 230), (90, 214, 224))
# How strongly the weave of the laminate and the brush of the metal show in each material, of full scale.
WEAVE = np.array([0.03, 0.012, 0.06, 0, 0, 0, 0, 0.02], np.float32)
BRUSH = np.array([0, 0.03, 0, 0.09, 0.02, 0, 0, 0], np.float32)


@dataclass(frozen=True)
class _Look:
    """Palette of the eight materials, [8, 3] BGR, and whether the board is finished (mask, print)."""

    palette: np.ndarray
    finished: bool
    grey: bool


def photograph(
    rng: np.random.Generator, layout: Layout, copper: np.ndarray, again: np.random.Generator | None = None
) -> np.ndarray:
    """Photograph a board.

    Args:
        rng: Source of every choice.
        layout: Everything on the board but its copper.
        copper: Copper with or without defects (uint8, 0 or 1).
        again: Source of what tells a second board of the product from the first, under the same camera and light; with
            it ``rng`` must be in the state that it had before the first.

    Returns:
        Image (uint8, BGR, [size, size, 3]), or [size, size] for a grey line scan.
    """
    look = _draw_look(rng)
    material = _materials(layout, copper, look)
    image = look.palette[material]
    image = image[..., 0] if look.grey else image
    lens = float(rng.uniform(0.55, 0.95))
    image = cv2.GaussianBlur(image, (0, 0), lens).astype(np.float32)
    light, texture = _light(rng, layout.copper.shape[0], look), _texture(rng, material)
    noise = _noise(rng, light.shape)
    if again is not None:
        place = _place(again)
        light = light * np.float32(again.uniform(*EXPOSURES))
        texture, noise = _moved(_texture(again, material), place), _noise(again, light.shape)
        image, copper = _moved(image, place), _moved(copper * np.float32(1), place)
    gain, extra = light * (1 + texture), noise
    if look.finished:  # the mask lies over the traces like a skin: their flanks catch or lose the light
        extra += _relief(rng, copper)
    if not look.grey:
        gain, extra = gain[..., None], extra[..., None]
    return np.clip(image * gain + extra, 0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return the noise of a sensor, in grey levels."""
    return rng.standard_normal(shape, np.float32) * float(rng.uniform(*NOISE))


def _place(rng: np.random.Generator) -> np.ndarray:
    """Draw where a second board lies: the map from the first one's pixels, (2, 3)."""
    return np.hstack([np.eye(2), rng.uniform(-MAX_SHIFT, MAX_SHIFT, (2, 1))])


def _moved(picture: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return a picture elsewhere; the pixels at its edge go on outwards."""
    return cv2.warpAffine(picture, place, picture.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


def _draw_look(rng: np.random.Generator) -> _Look:
    """Draw the colours of a board and its kind of picture."""

    def near(colour: Colour, spread: float = 8) -> np.ndarray:
        return np.array(colour) + rng.normal(0, spread) + rng.normal(0, spread / 3, 3)

    palette = np.zeros((8, 3))
    grey = bool(rng.random() < GREY_SHARE)
    finished = bool(not grey and rng.random() < 0.85)
    if grey:
        dark, bright = rng.uniform(30, 80), rng.uniform(160, 215)
        palette[[BASE, LAMINATE, PRINT]], palette[[TRACE, METAL]] = dark, bright
        palette[BARREL], palette[HOLE], palette[OUTSIDE] = 0.5 * bright, rng.uniform(4, 22), rng.uniform(8, 235)
    else:
        base, trace = MASKS[int(rng.integers(len(MASKS)))] if finished else UNMASKED
        palette[BASE], palette[TRACE] = near(base, 6), near(trace, 8)
        metal = near(FINISHES[int(rng.integers(len(FINISHES)))]) if finished else palette[TRACE]
        palette[LAMINATE] = near((78, 112, 112)) if finished else palette[BASE]
        palette[METAL], palette[PRINT] = metal, near(PRINTS[int(rng.integers(len(PRINTS)))], 5)
        palette[BARREL], palette[HOLE] = 0.55 * metal, near((16, 16, 16), 5)
        palette[OUTSIDE] = rng.uniform(10, 220) + rng.normal(0, 6, 3)
    return _Look(np.clip(palette, 0, 255).astype(np.uint8), finished, grey)


def _materials(layout: Layout, copper: np.ndarray, look: _Look) -> np.ndarray:
    """Return the material index of every pixel, [size, size] uint8."""
    material = np.where(copper > 0, np.uint8(TRACE), np.uint8(BASE))
    if look.finished:
        reach = 2 * max(1, round(3 * layout.scale)) + 1
        opening = cv2.dilate(layout.pads, np.ones((reach, reach), np.uint8))
        material[opening > 0] = LAMINATE
        material[(opening & copper) > 0] = METAL
        material[(layout.silk & (1 - opening)) > 0] = PRINT
    hole = layout.holes & (1 - copper)
    step = max(1, round(2 * layout.scale))
    deep = np.zeros_like(hole)
    deep[step:, step:] = hole[step:, step:] & hole[:-step, :-step]  # light from the lower right reaches the wall
    material[hole > 0] = BARREL
    material[deep > 0] = HOLE
    material[layout.outside > 0] = OUTSIDE
    return material


def _light(rng: np.random.Generator, size: int, look: _Look) -> np.ndarray:
    """Return the light that falls on each pixel, around 1: a slope, a soft unevenness, and stripes of a line scan."""
    slope = rng.uniform(-0.16, 0.16, 2)
    across = np.linspace(-1, 1, size, dtype=np.float32)
    uneven = cv2.resize(rng.normal(0, 0.05, (4, 4)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    light = float(rng.uniform(0.8, 1.12)) + uneven
    light += np.float32(slope[0]) * across[None] + np.float32(slope[1]) * across[:, None]
    if look.grey:
        light *= 1 + rng.normal(0, 0.012, size).astype(np.float32)[None]
    return light.astype(np.float32)


def _texture(rng: np.random.Generator, material: np.ndarray) -> np.ndarray:
    """Return the relative brightness texture of each pixel: glass weave, brushed metal, a little stain."""
    size = material.shape[0]
    period = float(rng.uniform(5, 9))
    wave = np.sin(
        np.arange(size, dtype=np.float32) * np.float32(2 * np.pi / period) + rng.uniform(0, 6, 1).astype("f4")
    )
    weave = wave[None] * wave[:, None]
    stain = cv2.resize(rng.standard_normal((24, 24), np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    brush = cv2.resize(rng.standard_normal((size, size // 8 + 1), np.float32), (size, size))
    return WEAVE[material] * weave + BRUSH[material] * (0.5 * brush + 0.6 * stain)


def _relief(rng: np.random.Generator, copper: np.ndarray) -> np.ndarray:
    """Return the highlights and shadows on the flanks of masked traces, in grey levels."""
    angle, strength = rng.uniform(0, 2 * np.pi), float(rng.uniform(10, 28))
    soft = cv2.GaussianBlur(copper * np.float32(1), (0, 0), 1.4)
    x, y = cv2.Sobel(soft, cv2.CV_32F, 1, 0, scale=0.25), cv2.Sobel(soft, cv2.CV_32F, 0, 1, scale=0.25)
    return strength * (np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y)
