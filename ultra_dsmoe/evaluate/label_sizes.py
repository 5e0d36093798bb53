"""Sizes of the labelled defects of a split, image by image, as the network meets them."""

from __future__ import annotations

from typing import Any

import numpy as np
from ultralytics.utils import DEFAULT_CFG

from ultra_dsmoe.evaluate.evaluation import quiet


def label_sizes(args: dict[str, Any], content: dict[str, Any], files: list[str]) -> list[np.ndarray]:
    """Read the labels with the host's own loader, which has them in its cache after a pass.

    Args:
        args: Arguments of an evaluation that ran, with ``split`` and maybe ``imgsz``.
        content: Checked data YAML.
        files: Images to look up.

    Returns:
        Root of the area of each defect in pixels after the resize to ``imgsz``, one array per image.
    """
    from ultralytics.data.dataset import YOLODataset

    imgsz = args.get("imgsz", DEFAULT_CFG.imgsz)
    with quiet():
        labels = YOLODataset(img_path=content[args["split"]], data=content, task="detect", augment=False).labels
    found = {str(label["im_file"]): _roots(label, imgsz) for label in labels}
    return [found[file] for file in files]


def _roots(label: dict[str, Any], imgsz: int) -> np.ndarray:
    height, width = label["shape"]
    scale = imgsz / max(height, width)  # as the host resizes: the longer side becomes imgsz
    return np.sqrt(label["bboxes"][:, 2] * label["bboxes"][:, 3] * width * height).astype(float) * scale
