"""Images to look at a network with: a data set's own where it is at hand, drawn ones where none is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from ultralytics.data.base import BaseDataset
from ultralytics.data.utils import check_det_dataset

from ultra_dsmoe.causes import reading
from ultra_dsmoe.constants import LETTERBOX_GRAY
from ultra_dsmoe.data.reference import in_force
from ultra_dsmoe.data.source import split_places
from ultra_dsmoe.errors import DataError
from ultra_dsmoe.runtime.detections import network_input, read_each, read_images
from ultra_dsmoe.runtime.pairing import PAIR, stacked

BLOBS = 12  # per drawn image (our choice)
SHIFT, EXPOSURE = (1, 2), 0.9  # of a drawn reference, pixels and factor (our choice)


def split_images(data: str | Path, split: str = "val", fraction: float = 1.0, download: bool = False) -> list[str]:
    """Return the image files of a split, or a share of them spread evenly over it.

    Args:
        data: Data YAML.
        split: ``train``, ``val`` or ``test``.
        fraction: Share of the images within (0, 1]; a whole number above 1 counts images, as in newer hosts.
        download: Whether the host may fetch YAML or images that are not on this disk. Of a set that is, nothing else is
            touched, not even the fonts that the host gets for any data set.

    Raises:
        DataError: If YAML, split or images are missing.
    """
    with reading("data", f"a data YAML with images in its '{split}' split", file=data):
        places: Any = _fetched(data, split) if download else _on_disk(data, split)
        if not places:
            raise DataError("data", f"a data YAML with a '{split}' split", str(data))
        files = BaseDataset.get_img_files(SimpleNamespace(prefix="", fraction=1.0), places)  # type: ignore[arg-type]
    wanted = fraction if fraction > 1 else fraction * len(files)
    return spread(files, max(1, round(wanted)))


def _on_disk(data: str | Path, split: str) -> list[str]:
    """Return the places of a split, all of which exist."""
    places = split_places(data, split)
    for place in places:
        if not place.exists():
            expected = f"a data YAML with images in its '{split}' split"
            raise DataError("data", expected, f"{data} (images not found: {place})")
    return [str(place) for place in places]


def _fetched(data: str | Path, split: str) -> Any:
    """Return the places of a split; where they are not on this disk, the host may get them."""
    try:
        return _on_disk(data, split)
    except DataError:
        return check_det_dataset(str(data)).get(split)


def spread(files: list[str], count: int) -> list[str]:
    """Return ``count`` of the files, or all, at even distances: names sort by class in many sets."""
    if count >= len(files):
        return files
    return [files[i] for i in np.linspace(0, len(files) - 1, count).round().astype(int)]


def load_images(paths: Iterable[str | Path], imgsz: int | tuple[int, int], channels: int = 3) -> Tensor:
    """Return pictures as the host's predictor hands them to a net of fixed size: letterboxed, in [0, 1], colour as RGB.

    Args:
        paths: Files; those that cannot be read are skipped with a warning.
        imgsz: Side of a square, or height and width, in pixels.
        channels: That the net takes.

    Returns:
        (M, channels, H, W) in fp32.

    Raises:
        DataError: If there is no picture.
    """
    size = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    return torch.cat([_stack([picture], size) for picture in pictures(paths, channels)])


def pictures(paths: Iterable[str | Path | np.ndarray], channels: int) -> Iterator[np.ndarray]:
    """Yield pictures as a net takes them, (H, W, channels): where references are in force, files with theirs.

    Args:
        paths: Files, or arrays; those that cannot be read are skipped with a warning.
        channels: That the net takes.

    Raises:
        DSMoEError: If there is none that can be read, or one lacks a reference.
    """
    references = in_force.current()
    if references is None or channels != PAIR * references.channels:
        yield from read_images(paths, channels)
        return
    for path, picture in read_each(paths, references.channels, of_arrays=channels):
        is_pair = isinstance(path, np.ndarray)
        yield picture if is_pair else stacked(picture, references.load(path, picture).pixels)  # type: ignore[arg-type]


def image_batches(
    paths: Iterable[str | Path], imgsz: tuple[int, int], channels: int = 3, batch: int = 8
) -> Iterator[Tensor]:
    """Yield the pictures of `load_images` in stacks of at most ``batch``."""
    group: list[np.ndarray] = []
    for picture in pictures(paths, channels):
        group.append(picture)
        if len(group) == batch:
            yield _stack(group, imgsz)
            group = []
    if group:
        yield _stack(group, imgsz)


def _stack(pictures: list[np.ndarray], size: tuple[int, int]) -> Tensor:
    return torch.from_numpy(network_input(pictures, size))


def channels_of(net: Any) -> int:
    """Return how many channels the images of a net have."""
    return int((getattr(net, "yaml", None) or {}).get("channels", 3))


def drawn_pairs(count: int, imgsz: tuple[int, int], channels: int = 3) -> Tensor:
    """Return drawn images with references, (M, 2C, H, W): darker, shifted, without one thing; the last one is blank.

    Args:
        count: Number of pairs M.
        imgsz: Height and width in pixels.
        channels: C, each image's.
    """
    images, others = (drawn_images(count, imgsz, seed, channels) for seed in (0, 1))
    references = images.roll(SHIFT, (2, 3)) * EXPOSURE
    y, x = imgsz[0] // 2, imgsz[1] // 2
    references[:, :, :y, :x] = others[:, :, :y, :x]
    references[-1] = 0
    return torch.cat([images, references], 1)


def drawn_images(count: int, imgsz: tuple[int, int], seed: int = 0, channels: int = 3) -> Tensor:
    """Return images of random discs on noisy ground, the same for a seed, (M, channels, H, W) in [0, 1].

    Args:
        count: Number of images M.
        imgsz: Height and width in pixels.
        seed: Of the generator.
        channels: Each image's.
    """
    rng = np.random.default_rng(seed)
    height, width = imgsz
    images = []
    for _ in range(count):
        shade = rng.integers(LETTERBOX_GRAY // 2, 2 * LETTERBOX_GRAY, channels)
        picture = np.full((height, width, channels), shade, np.uint8)
        for _ in range(BLOBS):
            centre = int(rng.integers(width)), int(rng.integers(height))
            radius = int(rng.integers(2, max(3, min(imgsz) // 4)))
            disc = cv2.circle(np.zeros((height, width), np.uint8), centre, radius, 1, -1).astype(bool)
            picture[disc] = rng.integers(0, 256, channels)
        noise = rng.normal(0, rng.uniform(2, 20), picture.shape)
        images.append(np.clip(picture + noise, 0, 255).astype(np.float32).transpose(2, 0, 1) / 255)
    return torch.from_numpy(np.stack(images))
