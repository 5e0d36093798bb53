"""Images to look at a network with: a data set's own where it is at hand, drawn ones where none is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from ultralytics.data.augment import LetterBox
from ultralytics.data.base import BaseDataset
from ultralytics.data.utils import check_det_dataset

from ultra_dsmoe.constants import LETTERBOX_GRAY
from ultra_dsmoe.data.source import split_places
from ultra_dsmoe.errors import DataError

BLOBS = 12  # per drawn image (our choice)


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
    try:
        places: Any = _fetched(data, split) if download else _on_disk(data, split)
        if not places:
            raise DataError("data", f"a data YAML with a '{split}' split", str(data))
        files = BaseDataset.get_img_files(SimpleNamespace(prefix="", fraction=1.0), places)  # type: ignore[arg-type]
    except DataError:
        raise
    except (OSError, SyntaxError, TypeError, ValueError, KeyError, RuntimeError) as e:
        cause = e.__cause__ or e
        raise DataError("data", f"a data YAML with images in its '{split}' split", f"{data} ({cause})") from e
    wanted = fraction if fraction > 1 else fraction * len(files)
    return spread(files, max(1, round(wanted)))


def _on_disk(data: str | Path, split: str) -> list[str]:
    """Return the places of a split, all of which exist."""
    places = split_places(data, split)
    for place in places:
        if not place.exists():
            raise FileNotFoundError(f"images not found: {place}")
    return [str(place) for place in places]


def _fetched(data: str | Path, split: str) -> Any:
    """Return the places of a split; where they are not on this disk, the host may get them."""
    try:
        return _on_disk(data, split)
    except (DataError, FileNotFoundError):
        return check_det_dataset(str(data)).get(split)


def spread(files: list[str], count: int) -> list[str]:
    """Return ``count`` of the files, or all, at even distances: names sort by class in many sets."""
    if count >= len(files):
        return files
    return [files[i] for i in np.linspace(0, len(files) - 1, count).round().astype(int)]


def load_images(paths: Iterable[str | Path], imgsz: int | tuple[int, int]) -> Tensor:
    """Return pictures as the host's predictor hands them to a net of fixed size: letterboxed RGB in [0, 1].

    Args:
        paths: Files.
        imgsz: Side of a square, or height and width, in pixels.

    Returns:
        (M, 3, H, W) in fp32.

    Raises:
        DataError: If there is no path, or a file is no picture.
    """
    images: list[Tensor] = []
    box: Any = LetterBox((imgsz, imgsz) if isinstance(imgsz, int) else imgsz, auto=False)
    for path in paths:
        picture = cv2.imread(str(path))
        if picture is None:
            raise DataError("images", "a picture", str(path))
        images.append(torch.from_numpy(np.ascontiguousarray(box(image=picture)[..., ::-1].transpose(2, 0, 1))))
    if not images:
        raise DataError("images", "at least one path", "none")
    return torch.stack(images).float() / 255


def drawn_images(count: int, imgsz: tuple[int, int], seed: int = 0) -> Tensor:
    """Return images of random discs on noisy ground, the same for a seed, (M, 3, H, W) in [0, 1].

    Args:
        count: Number of images M.
        imgsz: Height and width in pixels.
        seed: Of the generator.
    """
    rng = np.random.default_rng(seed)
    height, width = imgsz
    images = []
    for _ in range(count):
        picture = np.full((height, width, 3), rng.integers(LETTERBOX_GRAY // 2, 2 * LETTERBOX_GRAY, 3), np.uint8)
        for _ in range(BLOBS):
            centre = int(rng.integers(width)), int(rng.integers(height))
            radius = int(rng.integers(2, max(3, min(imgsz) // 4)))
            cv2.circle(picture, centre, radius, rng.integers(0, 256, 3).tolist(), -1)
        noise = rng.normal(0, rng.uniform(2, 20), picture.shape)
        images.append(np.clip(picture + noise, 0, 255).astype(np.float32).transpose(2, 0, 1) / 255)
    return torch.from_numpy(np.stack(images))
