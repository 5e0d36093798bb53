"""Lay a known-good picture on its image, and tell whether both show the same product.

All is judged by gradients, which know nothing of exposure, and of light only how fast it changes. A shift is found by
phase correlation, which is good to a pixel, and refined by ECC; an affine map by ECC, coarse to fine, from that shift
on. What was found counts only where it fits better than what was there before.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

SIDE = 640  # pixels of the longer side in which pictures are registered; larger ones are made smaller
COARSE = 160  # of the first affine map, which must bridge the corners of a picture turned by two degrees
JUDGED = 320  # in which the quality is measured
SIGMA = 1.0  # pixels; smooths sensor noise and the jagged edges of binary pictures
ECC_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-5)
ECC_BLUR = 5  # pixels, OpenCV's default
QUALITY_LIMIT = 0.45  # below it a reference could not be laid on its image
REACHED = 0.8  # share of an image that a reference must cover
COMPARED = 96  # pixels of the longer side in which two pictures are compared
REACH = 2  # of these pixels that they may be shifted against each other
FLOOR = 16.0  # deviation of gradients, in grey levels per 8 pixels, of a picture with hardly any structure
MISMATCH_LIMIT = 0.4  # above it two pictures show different products
IDENTITY = np.eye(2, 3, dtype=np.float32)


class Registration(NamedTuple):
    """How a reference lies on its image.

    Attributes:
        matrix: From pixels of the image to those of the reference, (2, 3), float32.
        quality: Correlation of both gradients, 1 where they are the same.
    """

    matrix: np.ndarray
    quality: float


class Measured(NamedTuple):
    """What was measured of a pair.

    Attributes:
        matrix: From pixels of the image to those of the reference, (2, 3), float32.
        quality: How well the reference lies; None where it was not to be registered.
        mismatch: Of image and reference, as that lies.
    """

    matrix: np.ndarray
    quality: float | None
    mismatch: float

    @property
    def is_lost(self) -> bool:
        """Whether the reference could not be laid on the image."""
        return self.quality is not None and self.quality < QUALITY_LIMIT


def register(image: np.ndarray, reference: np.ndarray, align: str) -> Registration:
    """Find how a reference lies on its image.

    Args:
        image: (H, W, C), uint8.
        reference: Of the same shape.
        align: ``none``, ``shift`` or ``affine``.
    """
    known = [IDENTITY]
    if align != "none":
        small, frame = _at_side(image, reference, SIDE)
        shift = _shift(*small)
        known += [_of_frame(found, frame) for found in (shift, _refined(*small, shift, cv2.MOTION_TRANSLATION))]
    best = _best(known, image, reference)
    if align != "affine":
        return best
    known = [best.matrix]
    for side in (COARSE, SIDE):
        small, frame = _at_side(image, reference, side)
        known.append(_of_frame(_refined(*small, _in_frame(known[-1], frame), cv2.MOTION_AFFINE), frame))
    return _best(known, image, reference)


def measured(image: np.ndarray, reference: np.ndarray, align: str) -> Measured:
    """Return how a reference lies on its image of the same shape, and their mismatch.

    What could be laid is compared as it is and as it is laid, since either may be the better view of nearly empty
    pictures; what could not, as it is: a map found by chance would make a wrong reference look right.
    """
    score = mismatch(image, reference)
    if align == "none":
        return Measured(IDENTITY, None, score)
    found = Measured(*register(image, reference, align), score)
    if found.is_lost:
        return found
    return found._replace(mismatch=min(score, mismatch(image, laid_on(image, reference, found.matrix))))


def laid_on(image: np.ndarray, reference: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return a reference in the frame of its image, (H, W, C).

    Where the reference does not reach, the image's own pixels stand: nothing is known there, so nothing differs. Black
    or repeated pixels would look like defects all along the edge.
    """
    if np.array_equal(matrix, IDENTITY):
        return reference
    moved = _warped(reference, matrix).reshape(reference.shape)  # OpenCV drops a single channel
    return np.where(_reached(image.shape[:2], matrix)[..., None], moved, image)


def mismatch(image: np.ndarray, reference: np.ndarray) -> float:
    """Return how little two pictures have in common: 0 for the same product, 1 for pictures without anything alike.

    Args:
        image: (H, W, C), uint8.
        reference: Of the same shape; it may lie elsewhere by two hundredths of its size.
    """
    (one, other), _ = _at_side(image, reference, COMPARED)
    h, w = one.shape
    reach = min(REACH, (min(h, w) - 1) // 2)
    core = one[reach : h - reach, reach : w - reach]
    places = ((y, x) for y in range(2 * reach + 1) for x in range(2 * reach + 1))
    likeness = max(_likeness(core, other[y : y + core.shape[0], x : x + core.shape[1]], FLOOR) for y, x in places)
    return float(np.clip(1 - likeness, 0, 1))


def _likeness(one: np.ndarray, other: np.ndarray, floor: float = 0.0) -> float:
    """Return the correlation of two arrays; deviations far below ``floor`` count as the same."""
    a, b = one - one.mean(), other - other.mean()
    noise = floor**2 * a.size
    scale = float(np.sqrt((np.vdot(a, a) + noise) * (np.vdot(b, b) + noise)))
    return (float(np.vdot(a, b)) + noise) / scale if scale else 0.0


def _best(matrices: list[np.ndarray], image: np.ndarray, reference: np.ndarray) -> Registration:
    """Return the map under which the gradients of two pictures correlate best, the first of equal ones."""
    edges, frame = _at_side(image, reference, JUDGED)
    tried = [Registration(matrix, _correlation(*edges, _in_frame(matrix, frame))) for matrix in matrices]
    return max(tried, key=lambda one: one.quality)


def _correlation(one: np.ndarray, other: np.ndarray, matrix: np.ndarray) -> float:
    """Return the correlation of a picture with another that is laid on it, where both are."""
    both = _reached(one.shape, matrix)
    if both.mean() < REACHED:  # what is left by chance may look alike
        return 0.0
    return _likeness(one[both], _warped(other, matrix)[both], FLOOR)


def _warped(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return what lies under each pixel of an image of the same size, (H, W) or (H, W, C)."""
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, matrix, picture.shape[1::-1], flags=how, borderMode=cv2.BORDER_REPLICATE)


def _shift(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the shift between two pictures of edges as a map."""
    window = cv2.createHanningWindow(one.shape[::-1], cv2.CV_32F)
    (dx, dy), _ = cv2.phaseCorrelate(one, other, window)
    return np.array([[1, 0, dx], [0, 1, dy]], np.float32)


def _refined(one: np.ndarray, other: np.ndarray, start: np.ndarray, motion: int) -> np.ndarray:
    """Return the map of a kind between two pictures of edges, near ``start``; that itself where none is found."""
    everywhere = np.full(other.shape, np.iinfo(np.uint8).max, np.uint8)
    try:
        return cv2.findTransformECC(one, other, start.copy(), motion, ECC_STOP, everywhere, ECC_BLUR)[1]
    except cv2.error:  # pictures that have nothing in common, on which it does not converge
        return start


def _reached(size: tuple[int, ...], matrix: np.ndarray) -> np.ndarray:
    """Return which pixels of an image (H, W) have a pixel of the reference, bool."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    u, v = (row[0] * x + row[1] * y + row[2] for row in matrix)
    return (u >= 0) & (u <= size[1] - 1) & (v >= 0) & (v <= size[0] - 1)


def _at_side(image: np.ndarray, reference: np.ndarray, side: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Return the edges of two pictures whose longer side has at most ``side`` pixels, and the map to those, (3, 3)."""
    return (_edges(_sized(image, side)), _edges(_sized(reference, side))), _frame(image.shape[:2], side)


def _sized(picture: np.ndarray, side: int) -> np.ndarray:
    """Return a picture (H, W, C), made smaller, as (H, W), float32, the mean of its channels."""
    h, w = picture.shape[:2]
    scale = side / max(h, w)
    if scale < 1:
        size = (max(1, round(w * scale)), max(1, round(h * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return picture.mean(axis=2, dtype=np.float32) if picture.ndim > 2 else picture.astype(np.float32)


def _edges(gray: np.ndarray) -> np.ndarray:
    """Return the smoothed strength of the gradients."""
    strength = cv2.magnitude(*(cv2.Sobel(gray, cv2.CV_32F, *order) for order in ((1, 0), (0, 1))))
    return cv2.GaussianBlur(strength, (0, 0), SIGMA)


def _frame(size: tuple[int, int], side: int) -> np.ndarray:
    """Return the map from pixels of a picture (H, W) to those of what `_sized` makes of it, (3, 3)."""
    scale = min(1.0, side / max(size))
    sy, sx = (max(1, round(n * scale)) / n for n in size)
    return np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])


def _square(matrix: np.ndarray) -> np.ndarray:
    return np.vstack([matrix, [0, 0, 1]])


def _of_frame(matrix: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Return a map between pictures from that between the smaller ones."""
    return (np.linalg.inv(frame) @ _square(matrix) @ frame)[:2].astype(np.float32)


def _in_frame(matrix: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Return the map between smaller pictures from that between the pictures."""
    return (frame @ _square(matrix) @ np.linalg.inv(frame))[:2].astype(np.float32)
