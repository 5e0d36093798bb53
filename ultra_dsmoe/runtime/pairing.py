"""A pair: an image and its known-good picture as one array of twice the channels, RGB and RGB where there are three."""

from __future__ import annotations

import cv2
import numpy as np

from ultra_dsmoe.errors import ShapeError

PAIR = 2  # pictures in a pair
COLOURS = 3  # channels whose order the host turns from BGR to RGB


def stacked(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the pair of two pictures.

    The host turns pictures of three channels alone from BGR to RGB, so here they are turned already.

    Args:
        image: (H, W, C), BGR where C is 3.
        reference: Of the same shape.

    Returns:
        (H, W, 2C): the image's channels, then the reference's.

    Raises:
        ShapeError: If the shapes differ.
    """
    if image.ndim != 3 or image.shape != reference.shape:
        expected = f"the image's shape {image.shape}" if image.ndim == 3 else "pictures (H, W, C)"
        raise ShapeError("reference", expected, str(reference.shape))
    c = image.shape[2]
    order = range(c)[::-1] if c == COLOURS else range(c)
    pair = np.empty((*image.shape[:2], PAIR * c), image.dtype)
    sources = [(half * c + source, half * c + target) for half in range(PAIR) for target, source in enumerate(order)]
    # Ten times as fast as joining turned views.
    cv2.mixChannels([np.ascontiguousarray(image), np.ascontiguousarray(reference)], [pair], np.ravel(sources).tolist())
    return pair


def halves(pair: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return image and reference of a pair (H, W, 2C), each (H, W, C), BGR where C is 3; the inverse of `stacked`.

    Raises:
        ShapeError: If the number of channels is odd.
    """
    if pair.ndim != 3 or pair.shape[2] % PAIR:
        raise ShapeError("pair", "(H, W, 2C), an image and its reference", str(pair.shape))
    image, reference = np.split(pair, PAIR, axis=2)
    return np.ascontiguousarray(_turned(image)), np.ascontiguousarray(_turned(reference))


def blank_like(image: np.ndarray) -> np.ndarray:
    """Return the reference of an image that has none: zeros."""
    return np.zeros_like(image)


def _turned(picture: np.ndarray) -> np.ndarray:
    return picture[..., ::-1] if picture.shape[2] == COLOURS else picture
