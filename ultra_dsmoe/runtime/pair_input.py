"""From an image and its known-good picture to what a file that compares takes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ultra_dsmoe.errors import ConfigError, DataError, DSMoEError
from ultra_dsmoe.runtime.detections import Image, read_image
from ultra_dsmoe.runtime.pairing import blank_like, stacked
from ultra_dsmoe.runtime.reference_entry import ABSENT, BLANK, OK, UNREGISTERED, PictureReference, ReferenceEntry
from ultra_dsmoe.runtime.registration import Measured, laid_on, measured

SAME_ASPECT = 0.01  # relative difference of height / width up to which two pictures show the same piece


class Loaded(NamedTuple):
    """A known-good picture in the frame of its image.

    Attributes:
        pixels: (H, W, C), uint8, BGR, of the image's size; zeros where there is none.
        mismatch: 0 where both show the same product, 1 where they have nothing in common; None without a reference.
        quality: How well it lies on the image, up to 1; None where it was not registered.
        state: ``ok``, ``missing``, or ``unregistered`` where it could not be laid on the image.
    """

    pixels: np.ndarray
    mismatch: float | None
    quality: float | None
    state: str

    def report(self, file: str | None) -> PictureReference:
        """Return all of it but the pixels, with the reference's file."""
        return PictureReference(self.state, self.mismatch, self.quality, file)


def laid(picture: np.ndarray, reference: np.ndarray, known: Measured) -> Loaded:
    """Return a reference as it lies on its image, blank where it could not be laid.

    Args:
        picture: The image, (H, W, C), uint8.
        reference: Of the same shape.
        known: What was measured of both.
    """
    if known.is_lost:
        return Loaded(blank_like(picture), known.mismatch, known.quality, UNREGISTERED)
    return Loaded(laid_on(picture, reference, known.matrix), known.mismatch, known.quality, OK)


def paired(image: Image, reference: Image | None, entry: ReferenceEntry) -> tuple[np.ndarray, PictureReference]:
    """Return a pair (H, W, 2C), uint8, and what became of the reference.

    Args:
        image: File or array, as `read_image` takes them.
        reference: Likewise; None for an image without.
        entry: What the file says about references.

    Raises:
        ConfigError: If there is no reference, and the file may not be without.
        DSMoEError: If one of the pictures cannot be read, or they show parts of different shapes.
    """
    picture = read_image(image, entry.channels)
    if reference is None:
        if entry.missing != BLANK:
            expected = "the known-good picture of the part, with which this file compares (it was not trained without)"
            raise ConfigError("reference", expected, "none")
        return stacked(picture, blank_like(picture)), PictureReference(ABSENT)
    name = None if isinstance(reference, np.ndarray) else str(reference)
    try:
        good = read_image(reference, entry.channels)
    except DSMoEError as e:
        raise type(e)("reference", e.expected, f"{e.got} ({name or 'an array'})") from e
    good = fitted("reference", good, picture, "the image", name)
    found = laid(picture, good, measured(picture, good, entry.align))
    return stacked(picture, found.pixels), found.report(name)


def fitted(
    argument: str, reference: np.ndarray, picture: np.ndarray, name: str, source: str | Path | None
) -> np.ndarray:
    """Return a reference in the size of its image.

    Args:
        argument: Under which name it was given, for errors.
        reference: (H, W, C), uint8.
        picture: The image.
        name: Of the image, for errors.
        source: File of the reference, None for an array.

    Raises:
        DataError: If it shows a piece of another shape.
    """
    (h, w), (rh, rw) = picture.shape[:2], reference.shape[:2]
    if (h, w) == (rh, rw):
        return reference
    if abs(rh * w / (rw * h) - 1) > SAME_ASPECT:
        raise DataError(
            argument, f"a reference of the product size of {name}, {w}x{h}", f"{rw}x{rh} ({source or 'an array'})"
        )
    how = cv2.INTER_AREA if rh > h else cv2.INTER_LINEAR
    return cv2.resize(reference, (w, h), interpolation=how).reshape(picture.shape)
