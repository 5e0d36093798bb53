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
ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")  # modes with a channel of opacity
DEEP = ("I", "F")  # beginnings of the modes with one channel of more than 8 bits
BAD_FILE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises over a damaged file


def image_size(file: Path) -> tuple[int, int]:
    """Return height and width of a picture as it is shown, turned as its EXIF data ask.

    Raises:
        DataError: If it cannot be read.
    """
    height, width, _ = read_image(file, 1).shape
    return height, width


def foreground(file: Path) -> tuple[np.ndarray, frozenset[str]]:
    """Return where a mask is not black, and what numbers it has there.

    Of a JPEG it is what is brighter than half. What is transparent is background; where nothing but black is left then,
    what is opaque is the mask.

    Returns:
        (H, W) of bool, and gray values, numbers of a palette or colours (``#ff0000``); none of a JPEG.

    Raises:
        DataError: If it cannot be read, or has colours but is transparent all over.
    """
    image = _read(file)
    pixels = np.atleast_3d(np.asarray(image if _is_single(image) else image.convert("RGB")))
    shown = np.any(pixels > HALF if image.format in LOSSY else pixels != 0, axis=2)
    if image.mode == "P" and not shown.any():
        shown = np.asarray(image) != 0  # a palette that is black all over
    alpha = _alpha(image, file, shown)
    seen = shown if alpha is None else shown & (alpha > 0)
    if alpha is not None and not seen.any():
        seen = alpha > alpha.min()
    return seen, frozenset() if image.format in LOSSY else _numbered(image, pixels, seen)


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
    return _numbers(pixels[..., 0], image, file)


def colours(file: Path) -> np.ndarray:
    """Return the colours of a mask as numbers, (H, W): 0xff0000 is red.

    Raises:
        DataError: If it cannot be read, has more than 8 bits or is a JPEG, which keeps no exact colours.
    """
    image = _lossless(_read(file), file)
    if image.mode.startswith(DEEP):
        raise DataError(str(file), "a mask of colours, as the set's 'values' are", "grey values of more than 8 bits")
    return _numbers(_packed(np.asarray(image.convert("RGB"))), image, file)


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


def _packed(pixels: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) colours as one number each."""
    red, green, blue = np.moveaxis(pixels.astype(np.int32), 2, 0)
    return red << 16 | green << 8 | blue


def _numbered(image: Image.Image, pixels: np.ndarray, seen: np.ndarray) -> frozenset[str]:
    """Return what gray values, numbers of a palette or colours a mask has in some of its pixels."""
    if image.mode == "P":
        pixels = np.asarray(image)[..., None]
    elif (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    if pixels.shape[2] == 1:
        return frozenset(map(str, np.unique(pixels[seen]).tolist()))
    return frozenset(f"#{number:06x}" for number in np.unique(_packed(pixels)[seen]).tolist())


def _alpha(image: Image.Image, file: Path, shown: np.ndarray) -> np.ndarray | None:
    """Return how opaque each pixel is, (H, W) from 0 to 255; None where that is everywhere the same.

    Args:
        image: A mask.
        file: Its name.
        shown: Where it is not black.
    """
    if image.mode.startswith(DEEP) or not (image.mode in ALPHA or "transparency" in image.info):
        return None
    alpha = np.asarray(image.convert("RGBA"))[..., 3]
    if not alpha.any() and shown.any():
        raise DataError(str(file), "a mask that can be seen", "one that is transparent all over")
    return alpha if alpha.min() < alpha.max() else None


def _numbers(numbers: np.ndarray, image: Image.Image, file: Path) -> np.ndarray:
    """Return numbers that tell classes, with 0 where a mask is transparent."""
    alpha = _alpha(image, file, numbers != 0)
    if alpha is None:
        return numbers
    seen = np.where(alpha > 0, numbers, 0)
    if not seen.any():
        raise DataError(str(file), "a mask whose values tell classes", "one that is black and transparent alone")
    return seen


def _is_single(image: Image.Image) -> bool:
    """Whether an image has one channel of grey values."""
    return image.mode in ("1", "L") or image.mode.startswith(DEEP)


def _lossless(image: Image.Image, file: Path) -> Image.Image:
    """Return an image whose numbers are exact."""
    if image.format in LOSSY:
        raise DataError(str(file), "a mask in a format without loss, such as PNG, as classes are told by value", "JPEG")
    return image
