"""The known-good pictures of a set of images: found, checked, read, and laid on their images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ultra_dsmoe.data.reference.pairing import blank_like
from ultra_dsmoe.data.reference.places import named, place_of
from ultra_dsmoe.data.reference.spec import ReferenceSpec
from ultra_dsmoe.errors import DataError, DSMoEError
from ultra_dsmoe.runtime.detections import read_image

SAME_ASPECT = 0.01  # relative difference of height / width up to which two pictures show the same piece
OK, ABSENT, UNREGISTERED = "ok", "missing", "unregistered"


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


class References:
    """Known-good pictures, by image."""

    def __init__(self, spec: ReferenceSpec, channels: int) -> None:
        """Remember where they are.

        Args:
            spec: What the user said.
            channels: Of the images, and so of the references.
        """
        self.spec, self.channels = spec, channels
        self._place = place_of(spec)

    def find(self, image: str | Path) -> Path | None:
        """Return the file of an image's reference, None where it has none or all share an array."""
        return None if self._place is None else self._place.find(Path(image))

    def require(self, images: Sequence[str | Path]) -> None:
        """Check the references of some images before any work.

        Args:
            images: Their files.

        Raises:
            DSMoEError: If a place is wrong, an image has none and may not be without, or the first shows another size.
        """
        from ultralytics.utils import LOGGER

        files = [Path(image) for image in images]
        if self._place is not None:
            self._place.check(files)
            missing = [file for file in files if self._place.find(file) is None]
            found = f"{len(missing)} of {len(files)} missing ({named(file.name for file in missing)})"
            if missing and self.spec.missing == "error":
                raise DataError(self.spec.argument, "a reference for each image (or missing: blank)", found)
            if missing:
                LOGGER.warning(f"{self.spec.argument}: {found}; they go with a blank reference")
        first = next((file for file in files if self._place is None or self._place.find(file)), None)
        if first is not None:
            self._fitted(first, self._read(first), _read_file(str(first), first, self.channels))

    def load(self, image: str | Path, picture: np.ndarray | None = None) -> Loaded:
        """Return the reference of an image in its frame.

        Args:
            image: Its file.
            picture: Its pixels (H, W, C), uint8, BGR; read from the file where they are left out.

        Raises:
            DSMoEError: If it has none and may not be without, or one that cannot be used.
        """
        file = Path(image)
        picture = _read_file(str(file), file, self.channels) if picture is None else picture
        reference = self._read(file)
        if reference is None:
            if self.spec.missing == "error":
                raise DataError(self.spec.argument, "a reference for each image (or missing: blank)", str(file))
            return Loaded(blank_like(picture), None, None, ABSENT)
        return Loaded(self._fitted(file, reference, picture), None, None, OK)

    def prepare(self, images: Sequence[str | Path], prefix: str = "") -> None:
        """Register all references once."""

    def _read(self, image: Path) -> np.ndarray | None:
        """Return the pixels of an image's reference as the host reads an image, None where it has none."""
        if self.spec.image is not None:
            try:
                return read_image(self.spec.image, self.channels)
            except DSMoEError as e:
                raise type(e)(self.spec.argument, e.expected, e.got) from e
        found = self.find(image)
        return None if found is None else _read_file(self.spec.argument, found, self.channels)

    def _fitted(self, image: Path, reference: np.ndarray | None, picture: np.ndarray) -> np.ndarray:
        """Return a reference in the size of its image.

        Raises:
            DataError: If it shows a piece of another shape.
        """
        assert reference is not None
        (h, w), (rh, rw) = picture.shape[:2], reference.shape[:2]
        if (h, w) == (rh, rw):
            return reference
        if abs(rh * w / (rw * h) - 1) > SAME_ASPECT:
            expected = f"a reference of the product size of {image.name}, {w}x{h}"
            raise DataError(self.spec.argument, expected, f"{rw}x{rh} ({self.find(image) or 'an array'})")
        how = cv2.INTER_AREA if rh > h else cv2.INTER_LINEAR
        resized = cv2.resize(reference, (w, h), interpolation=how)
        return resized if resized.ndim == 3 else resized[..., None]


def _read_file(argument: str, file: Path, channels: int) -> np.ndarray:
    """Return a picture (H, W, C) as the host's loader of data sets reads it.

    Raises:
        DataError: If it cannot be read, or has another number of channels.
    """
    from ultralytics.utils.patches import imread

    flag = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR}.get(channels, cv2.IMREAD_UNCHANGED)
    pixels = imread(str(file), flag)
    if pixels is None:
        raise DataError(argument, "a picture that can be read", str(file))
    try:
        return read_image(pixels, channels)
    except DSMoEError as e:
        raise DataError(argument, f"a picture of {channels} channels", f"{file} ({e.got})") from e
