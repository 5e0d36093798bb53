"""What a training does to pairs beside the host's transforms, which move both pictures of a pair together.

Some of the host's transforms know pictures of one or three channels alone and would leave pairs as they are: they are
brought to the halves here.
"""

from __future__ import annotations

import functools
import random
from typing import Any

import cv2
import numpy as np
from ultralytics.data.augment import Albumentations, Compose, RandomHSV, RandomPerspective

from ultra_dsmoe.data.reference.pairing import COLOURS, halves, stacked
from ultra_dsmoe.data.reference.strengths import Strengths
from ultra_dsmoe.errors import ConfigError

SIDE = 640  # pixels of the longer side for which shifts are said, the host's usual size
GRAY = 127.5  # about which contrast changes
NOISE = 1 << 20  # numbers that all noise is cut out of: drawing a million takes ten times as long as adding them
NOISE_UNIT = 32  # their standard deviation
BORDER = (114,) * 4  # how the host says the value of bars to OpenCV, which repeats four values over all channels
BLOCK = 4


class PairAugment:
    """Changes the two pictures of a pair apart: exposure, noise, a small shift and turn of the reference, no reference.

    A blank reference stays blank. All is drawn from Python's ``random``, which the host seeds in each worker.
    """

    def __init__(self, strengths: Strengths) -> None:
        """Remember the bounds."""
        self.strengths = strengths

    def __call__(self, pair: np.ndarray) -> np.ndarray:
        """Return a changed copy of a pair (H, W, 2C), uint8."""
        c = pair.shape[2] // 2
        keeps = bool(pair[..., c:].any()) and random.random() >= self.strengths.drop
        pair = self._exposed(pair, c)
        if keeps:
            self._move(pair[..., c:])
        pair = self._noisy(pair)
        if not keeps:
            pair[..., c:] = 0
        return pair

    def _exposed(self, pair: np.ndarray, c: int) -> np.ndarray:
        """Return a copy with another contrast and brightness of each half."""
        bound = self.strengths.exposure
        if not bound:
            return pair.copy()
        levels = np.arange(256, dtype=np.float32)
        tables = np.empty((256, 2 * c), np.uint8)
        for half in (slice(c), slice(c, None)):
            contrast, brightness = (random.uniform(1 - bound, 1 + bound) for _ in range(2))
            tables[:, half] = (((levels - GRAY) * contrast + GRAY) * brightness).clip(0, 255)[:, None]
        return cv2.LUT(pair, tables[None])

    def _move(self, reference: np.ndarray) -> None:
        """Shift and turn a reference (H, W, C) in place; what comes in at its edges repeats them."""
        px, degrees = self.strengths.px, self.strengths.degrees
        if not px and not degrees:
            return
        h, w = reference.shape[:2]
        px *= max(h, w) / SIDE
        matrix = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), random.uniform(-degrees, degrees), 1)
        matrix[:, 2] += np.array([random.uniform(-px, px), random.uniform(-px, px)])
        moved = cv2.warpAffine(np.ascontiguousarray(reference), matrix, (w, h), borderMode=cv2.BORDER_REPLICATE)
        reference[...] = moved.reshape(reference.shape)

    def _noisy(self, pair: np.ndarray) -> np.ndarray:
        """Return a pair with noise, as strong in both halves and otherwise of its own in each pixel."""
        if not self.strengths.noise:
            return pair
        deviation, start = random.uniform(0, self.strengths.noise), random.randrange(NOISE // 2)
        noise = np.resize(_noise()[start:], pair.shape)
        return cv2.addWeighted(pair, 1, noise, deviation / NOISE_UNIT, 0, dtype=cv2.CV_8U)


@functools.cache
def _noise() -> np.ndarray:
    """Return normal numbers, the same in all processes."""
    return (np.random.default_rng(0).standard_normal(NOISE) * NOISE_UNIT).astype(np.int16)


class BothHalves:
    """A transform of single pixels, applied to image and reference with one draw: both stand in the same light."""

    def __init__(self, transform: Any) -> None:
        """Remember the host's transform."""
        self.transform = transform

    def __call__(self, labels: dict[str, Any]) -> dict[str, Any]:
        """Return the labels with a changed pair."""
        image, reference = halves(labels["img"])
        both = self.transform({**labels, "img": np.concatenate([image, reference])})["img"]
        return {**labels, "img": stacked(*np.split(both, 2))}


class ImageHalf:
    """A transform that leaves all pixels where they are, applied to the image alone."""

    def __init__(self, transform: Any) -> None:
        """Remember the host's transform.

        Raises:
            ConfigError: If it moves pixels, which the reference would not follow.
        """
        if getattr(transform, "contains_spatial", False):
            names = ", ".join(type(t).__name__ for t in getattr(transform.transform, "transforms", ()))
            expected = "transforms that leave all pixels in their place, since the reference does not follow them"
            raise ConfigError("augmentations", expected, names)
        self.transform = transform

    def __call__(self, labels: dict[str, Any]) -> dict[str, Any]:
        """Return the labels with a changed image."""
        image, reference = halves(labels["img"])
        return {**labels, "img": stacked(self.transform({**labels, "img": image})["img"], reference)}


class WholeBlocks:
    """A warp of hosts that give every fourth channel black bars: it sees a pair with an empty fourth channel."""

    def __init__(self, transform: Any) -> None:
        """Remember the host's transform."""
        self.transform = transform

    def __call__(self, labels: dict[str, Any]) -> dict[str, Any]:
        """Return the labels as the host's transform does with bars of one gray."""
        pair = labels["img"]
        channels = [i for i in range(2 * pair.shape[2]) if i % BLOCK != BLOCK - 1][: pair.shape[2]]
        wide = np.zeros((*pair.shape[:2], channels[-1] + 1), pair.dtype)
        wide[..., channels] = pair
        labels = self.transform({**labels, "img": wide})
        return {**labels, "img": np.ascontiguousarray(labels["img"][..., channels])}


class Reversed:
    """Turns the colours of both pictures around in a share of the pairs, as ``bgr=`` asks for."""

    def __init__(self, p: float) -> None:
        """Remember the share."""
        self.p = p

    def __call__(self, labels: dict[str, Any]) -> dict[str, Any]:
        """Return the labels, with BGR and BGR where it is so drawn."""
        if random.uniform(0, 1) < self.p:
            labels["img"] = np.ascontiguousarray(labels["img"][..., [2, 1, 0, 5, 4, 3]])
        return labels


def for_pairs(transforms: Any, channels: int, bgr: float = 0.0) -> Any:
    """Return the host's transforms of a training, fitted to pairs.

    Args:
        transforms: The host's, changed in place.
        channels: Of each picture of a pair.
        bgr: Share of the pairs whose colours are turned around.

    Raises:
        ConfigError: If one of them moves pixels of the image alone.
    """
    _replace(transforms, channels, set())
    if bgr and channels == COLOURS:
        transforms.insert(len(transforms.transforms) - 1, Reversed(bgr))
    return transforms


def _replace(transforms: Any, channels: int, seen: set[int]) -> None:
    """Replace what does not suit pairs, also in what other transforms begin with."""
    if not isinstance(transforms, Compose) or id(transforms) in seen:
        return
    seen.add(id(transforms))
    for i, transform in enumerate(transforms.transforms):
        _replace(transform, channels, seen)
        _replace(getattr(transform, "pre_transform", None), channels, seen)
        if isinstance(transform, RandomHSV) and channels == COLOURS:
            transforms.transforms[i] = BothHalves(transform)
        elif isinstance(transform, Albumentations) and transform.transform is not None and channels in (1, COLOURS):
            transforms.transforms[i] = ImageHalf(transform)
        elif isinstance(transform, RandomPerspective) and 2 * channels >= BLOCK and not _fills_all_bars():
            transforms.transforms[i] = WholeBlocks(transform)


@functools.cache
def _fills_all_bars() -> bool:
    """Whether the host's warp names four values of its bars, as it does since 8.4.1."""
    functions = (getattr(f, "__code__", None) for f in vars(RandomPerspective).values())
    return any(BORDER in code.co_consts for code in functions if code is not None)
