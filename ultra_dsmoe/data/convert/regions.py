"""Pixel masks: read from whatever image file they come in, and taken apart into regions."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ultra_dsmoe.errors import DataError
from ultra_dsmoe.runtime.detections import read_image

HALF = 127  # JPEG smears: what is darker than this is background there
LOSSY = ("JPEG", "MPO")
DEEP = ("I", "F")  # beginnings of the modes with one channel of more than 8 bits
BAD_FILE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises over a damaged file


def image_size(file: Path) -> tuple[int, int]:
    """Return height and width of a picture as it is shown, turned as its EXIF data ask.

    Raises:
        DataError: If it cannot be read.
    """
    height, width, _ = read_image(file, 1).shape
    return height, width


def foreground(file: Path) -> np.ndarray:
    """Return where a mask is not black, (H, W) of bool; of a JPEG, where it is brighter than half.

    Raises:
        DataError: If it cannot be read.
    """
    image = _read(file)
    pixels = np.atleast_3d(np.asarray(image if _is_single(image) else image.convert("RGB")))
    return np.any(pixels > HALF if image.format in LOSSY else pixels != 0, axis=2)


def values(file: Path) -> np.ndarray:
    """Return the numbers of a mask, (H, W): grey values of any depth, or the indices of a palette.

    Raises:
        DataError: If it cannot be read, has colours or is a JPEG, which keeps no exact numbers.
    """
    image = _lossless(_read(file), file)
    if image.mode == "P" or _is_single(image):
        return np.asarray(image)
    pixels = np.asarray(image.convert("RGB"))
    if (pixels != pixels[..., :1]).any():
        raise DataError(str(file), "a mask of grey values, as the set's 'values' are numbers", "colours")
    return pixels[..., 0]


def colours(file: Path) -> np.ndarray:
    """Return the colours of a mask as numbers, (H, W): 0xff0000 is red.

    Raises:
        DataError: If it cannot be read, has more than 8 bits or is a JPEG, which keeps no exact colours.
    """
    image = _lossless(_read(file), file)
    if image.mode.startswith(DEEP):
        raise DataError(str(file), "a mask of colours, as the set's 'values' are", "grey values of more than 8 bits")
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int32), 2, 0)
    return red << 16 | green << 8 | blue


def find_regions(mask: np.ndarray, join: int = 1, min_area: int = 1) -> tuple[np.ndarray, int]:
    """Return the boxes of a mask's regions, and how many regions were too small.

    Args:
        mask: (H, W) of bool.
        join: Parts with fewer pixels than this between them are one region, slantwise too; 1 for parts that touch.
        min_area: The least pixels of a region, joined.

    Returns:
        Corners in pixels, (N, 4), right and lower ones behind the last pixel; how many were left out.
    """
    y, x = np.nonzero(mask)
    if not len(x):
        return np.empty((0, 4), int), 0
    # A square of `join` pixels in place of each pixel closes the gaps below `join`, of odd and even widths alike.
    side = min(join, max(mask.shape))  # no gap is wider
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8))
    _, labels = cv2.connectedComponents(grown, connectivity=8)
    owner = labels[y, x]
    order = np.argsort(owner, kind="stable")
    starts = np.flatnonzero(np.diff(owner[order], prepend=0))  # labels of regions begin with 1
    areas = np.diff(starts, append=len(order))
    x, y = x[order], y[order]
    low = [np.minimum.reduceat(side, starts) for side in (x, y)]
    high = [np.maximum.reduceat(side, starts) + 1 for side in (x, y)]
    kept = areas >= min_area
    return np.stack([*low, *high], 1)[kept], int((~kept).sum())


def _read(file: Path) -> Image.Image:
    """Read a mask whole, with Pillow: OpenCV does not give the numbers of a palette."""
    read_image(file, 1)  # before: the host's `Image.open` fetches a package for a file that is no image
    try:
        image = Image.open(file)
        image.load()
    except BAD_FILE as error:
        raise DataError(str(file), "a mask that can be read", str(error)) from error
    return image


def _is_single(image: Image.Image) -> bool:
    """Whether an image has one channel of grey values."""
    return image.mode in ("1", "L") or image.mode.startswith(DEEP)


def _lossless(image: Image.Image, file: Path) -> Image.Image:
    """Return an image whose numbers are exact."""
    if image.format in LOSSY:
        raise DataError(str(file), "a mask in a format without loss, such as PNG, as classes are told by value", "JPEG")
    return image
