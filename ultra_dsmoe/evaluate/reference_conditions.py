"""What can go wrong between an image and its known-good reference, applied to a split and written as data sets.

A condition changes files, not code. What a net makes of them is then asked of the ordinary validation, so that a net
with a reference and one without are measured in one way.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml

from ultra_dsmoe.data.labelled import Piece
from ultra_dsmoe.errors import DataError

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]

SHIFTS_PX, TURNS_DEGREES = (1, 2, 4, 8), (0.5, 1.0, 2.0)
EXPOSURES, BLURS_PX = (-0.3, 0.3), (1.0, 2.0)
WRONG, NONE = "wrong", "none"  # whose reference an image gets


@dataclass(frozen=True)
class Condition:
    """One thing that goes wrong.

    Attributes:
        kind: Such as ``shift``; conditions of a kind make one line of the plot.
        amount: How much of it.
        unit: Of the amount.
        of_reference: What happens to the reference, None for nothing.
        of_image: What happens to the image, None for nothing.
        whose: ``own``, ``wrong`` (that of another product) or ``none``.
    """

    kind: str
    amount: float = 0.0
    unit: str = ""
    of_reference: Change | None = None
    of_image: Change | None = None
    whose: str = "own"

    @property
    def name(self) -> str:
        """What tables call it."""
        amount = f"{self.amount:+g}" if self.amount < 0 or self.kind == "exposure" else f"{self.amount:g}"
        return f"{self.kind} {amount} {self.unit}" if self.unit else self.kind


def conditions() -> list[Condition]:
    """Return all conditions, the undisturbed one first.

    Shift and rotation move the reference against the image. Exposure and blur change the image, as a lamp or a lens
    does, so that a net without a reference meets them too.
    """
    found = [Condition("as it is")]
    found += [Condition("shift", px, "px", of_reference=_shift(px)) for px in SHIFTS_PX]
    found += [Condition("rotation", degrees, "degrees", of_reference=_turn(degrees)) for degrees in TURNS_DEGREES]
    found += [Condition("exposure", 100 * share, "%", of_image=_expose(share)) for share in EXPOSURES]
    found += [Condition("blur", px, "px", of_image=_blur(px)) for px in BLURS_PX]
    return [*found, Condition("wrong reference", whose=WRONG), Condition("no reference", whose=NONE)]


def _shift(px: float) -> Change:
    def change(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        angle = rng.uniform(0, 2 * np.pi)
        return _warped(pixels, np.array([[1, 0, px * np.cos(angle)], [0, 1, px * np.sin(angle)]]))

    return change


def _turn(degrees: float) -> Change:
    def change(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = pixels.shape[:2]
        middle = ((width - 1) / 2, (height - 1) / 2)
        return _warped(pixels, cv2.getRotationMatrix2D(middle, float(rng.choice((-degrees, degrees))), 1.0))

    return change


def _warped(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return a picture moved; what comes in from outside continues its edge."""
    size = (pixels.shape[1], pixels.shape[0])
    return cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _expose(share: float) -> Change:
    return lambda pixels, rng: np.clip(pixels * (1 + share), 0, 255).astype(np.uint8)


def _blur(px: float) -> Change:
    return lambda pixels, rng: cv2.GaussianBlur(pixels, (0, 0), px)


def known_good(px: float = 2.0, exposure: float = 0.1, noise: float = 4.0) -> Change:
    """Return what makes another shot of a known-good part out of its reference.

    Args:
        px: Length of its shift.
        exposure: Largest share by which it is brighter or darker.
        noise: Standard deviation of the sensor's noise, in gray levels.
    """
    moved = _shift(px)

    def change(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        shot = moved(pixels, rng) * (1 + rng.uniform(-exposure, exposure))
        return np.clip(shot + rng.normal(0, noise, pixels.shape), 0, 255).astype(np.uint8)

    return change


@dataclass(frozen=True)
class Pair:
    """An image with its boxes and its reference.

    Attributes:
        file: The image.
        piece: Its pixels and boxes.
        reference: (H, W, 3), 0 to 255.
        group: What images of one product have in common.
    """

    file: Path
    piece: Piece
    reference: np.ndarray
    group: str


def write_set(
    folder: Path, pairs: Sequence[Pair], condition: Condition, names: Sequence[str], align: str, seed: int = 0
) -> Path:
    """Write images, labels and references under a condition as a data set of one split.

    Args:
        folder: An empty one.
        pairs: Of the split.
        condition: What goes wrong.
        names: Of the classes.
        align: Registration that the set asks for.
        seed: Of what is drawn at random, for each image apart.

    Returns:
        Its data YAML.

    Raises:
        DataError: If a wrong reference is asked for and all images are of one product.
    """
    for part in ("images", "labels", "references"):
        (folder / part).mkdir(parents=True)
    others = _others([pair.group for pair in pairs]) if condition.whose == WRONG else []
    for i, pair in enumerate(pairs):
        rng = np.random.default_rng([seed, zlib.crc32(pair.file.name.encode())])
        stem = f"{i:05d}_{pair.file.stem}"
        image, reference = pair.piece.pixels, pairs[others[i]].reference if others else pair.reference
        image = condition.of_image(image, rng) if condition.of_image else image
        reference = condition.of_reference(reference, rng) if condition.of_reference else reference
        _write(folder / "images" / f"{stem}.png", image)
        (folder / "labels" / f"{stem}.txt").write_text("\n".join(pair.piece.label_lines()), encoding="utf-8")
        if condition.whose != NONE:
            _write(folder / "references" / f"{stem}.png", reference)
    # A pattern, and not the folder itself, which is empty where no image has a reference.
    section = {"pattern": "^(.*)$", "file": "references/{1}.png", "align": align, "missing": "blank"}
    content = {"path": str(folder), "train": "images", "val": "images", "names": dict(enumerate(names))}
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump({**content, "reference": section}, sort_keys=False), encoding="utf-8")
    return file


def _others(groups: list[str]) -> list[int]:
    """Return for each image the place of the next one of another product."""
    count = len(groups)
    found = []
    for i, group in enumerate(groups):
        other = next((j % count for j in range(i + 1, i + count) if groups[j % count] != group), None)
        if other is None:
            raise DataError("data", "images of at least two products, for wrong references", f"one, {group}")
        found.append(other)
    return found


def _write(file: Path, pixels: np.ndarray) -> None:
    file.write_bytes(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())
