"""Images of a detection set with their boxes, as the host reads and checks them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ultra_dsmoe.causes import reading
from ultra_dsmoe.errors import DataError
from ultra_dsmoe.logs import at_level


@dataclass(frozen=True)
class Piece:
    """An image with its boxes.

    Attributes:
        pixels: (H, W, 3), colours 0 to 255.
        classes: Class of each box, (N,).
        boxes_xyxy_px: Corners, (N, 4).
    """

    pixels: np.ndarray
    classes: np.ndarray
    boxes_xyxy_px: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def label_lines(self) -> list[str]:
        """Return the lines of a label file: class, centre and size as shares of the image."""
        h, w = self.size
        boxes = self.boxes_xyxy_px / np.array([w, h, w, h])
        centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        rows = zip(self.classes, centres, sizes, strict=True)
        return [f"{int(kind)} {cx:.6f} {cy:.6f} {bw:.6f} {bh:.6f}" for kind, (cx, cy), (bw, bh) in rows]


def read_set(data: str | Path) -> dict[str, Any]:
    """Return what the host makes of a data YAML.

    Args:
        data: A name that the host finds or a path, as ``yolo train data=`` takes it.

    Raises:
        DataError: If the YAML or its images are missing.
    """
    from ultralytics.data.utils import check_det_dataset
    from ultralytics.utils import LOGGER

    with at_level(LOGGER, logging.WARNING), reading("data", "a data YAML whose images are there"):
        return check_det_dataset(str(data))


def split_labels(content: dict[str, Any], split: str, imgsz: int = 640) -> list[dict[str, Any]]:
    """Return the host's labels of a split's readable images; polygons have become boxes.

    Args:
        content: What `read_set` returned.
        split: ``train``, ``val`` or ``test``; a test split that is not here counts as none.
        imgsz: For which size of images the host prepares them.

    Raises:
        DataError: If there are no images.
    """
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.utils import LOGGER

    places = content.get(split)
    if not places:
        return []
    places = places if isinstance(places, list) else [places]
    if split == "test" and not all(Path(p).exists() for p in places):
        return []
    with at_level(LOGGER, logging.WARNING), reading("data", f"readable images in its '{split}' split"):
        return YOLODataset(img_path=places, data=content, task="detect", imgsz=imgsz, augment=False).labels


def read_piece(label: dict[str, Any]) -> Piece:
    """Read an image of the host's labels.

    Raises:
        DataError: If it cannot be read.
    """
    from ultralytics.utils.patches import imread

    pixels = imread(label["im_file"])
    if pixels is None:
        raise DataError(label["im_file"], "a readable image", "none")
    h, w = pixels.shape[:2]
    centre, half = label["bboxes"][:, :2], label["bboxes"][:, 2:] / 2
    boxes = np.concatenate([centre - half, centre + half], 1).astype(float) * np.array([w, h, w, h])
    return Piece(pixels, label["cls"][:, 0].astype(int), boxes)


def class_names(content: dict[str, Any]) -> list[str]:
    """Return the class names of what `read_set` returned, in the order of their numbers."""
    return [str(content["names"][i]) for i in sorted(content["names"])]
