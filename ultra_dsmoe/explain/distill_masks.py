"""Distillation masks: where a teacher makes its student look, as pictures."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from ultralytics.utils import DEFAULT_CFG

from ultra_dsmoe.causes import reading
from ultra_dsmoe.distill import ActivationAttention, attention_mask, neck_attention, scale_mask
from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.evaluate.evaluation import quiet
from ultra_dsmoe.model.neck_maps import feeding_rows, neck_maps

IMAGES = 2
_EPS = 1e-6  # of a standard deviation: a map that is the same everywhere


class LevelMasks(NamedTuple):
    """What a level is weighted by.

    Attributes:
        stride: Pixels per cell.
        scale: Scale mask, (H, W).
        attention: Attention mask, mean over the channels, (H, W).
        own: Whether the teacher has an attention of its own there.
    """

    stride: int
    scale: np.ndarray
    attention: np.ndarray
    own: bool


@torch.no_grad()
def level_masks(teacher: Any, image: Tensor, boxes_xywh_norm: Tensor, temperature: float) -> list[LevelMasks]:
    """Return the masks of every level of a teacher for one image.

    Args:
        teacher: Detector in evaluation mode.
        image: Values in [0, 1], (3, H, W).
        boxes_xywh_norm: Its boxes, centre and size as shares of the image, (N, 4).
        temperature: T of the attention mask.
    """
    with neck_maps(teacher, stop=True) as maps:
        teacher(image[None])
    found = []
    for stride, row, x in zip(teacher.model[-1].stride.tolist(), feeding_rows(teacher), maps, strict=False):
        own = neck_attention(row, x.shape[1])
        attended = (own or ActivationAttention()).attended(x).float()
        attended = attended / attended.std().clamp_min(_EPS)  # as the distiller compares them
        scale = scale_mask(boxes_xywh_norm, torch.zeros(len(boxes_xywh_norm)), 1, (x.shape[-2], x.shape[-1]))
        mask = attention_mask(attended, temperature).mean(1)
        found.append(LevelMasks(int(stride), scale[0, 0].cpu().numpy(), mask[0].cpu().numpy(), own is not None))
    return found


def nesting_ratio(boxes_xywh_norm: np.ndarray) -> float:
    """Return how well an image shows the smallest box winning: the largest ratio of a box's area to one within it.

    Args:
        boxes_xywh_norm: Boxes of the image, (N, 4).

    Returns:
        At least 1 where a box lies in another; less, by the number of boxes, where none does.
    """
    low, high = boxes_xywh_norm[:, :2] - boxes_xywh_norm[:, 2:] / 2, boxes_xywh_norm[:, :2] + boxes_xywh_norm[:, 2:] / 2
    inside = (low[:, None] >= low[None]).all(-1) & (high[:, None] <= high[None]).all(-1) & ~np.eye(len(low), dtype=bool)
    area = np.maximum(boxes_xywh_norm[:, 2] * boxes_xywh_norm[:, 3], 1e-9)
    ratio = np.where(inside, area[None] / area[:, None], 0)
    return float(ratio.max(initial=0)) or len(area) / (1 + len(area))


def dataset(options: dict[str, Any], teacher: Any) -> Any:
    """Return the host's data set of a split, unaltered images at the size that the teacher takes.

    Raises:
        ConfigError: If no data YAML is named.
        DataError: If it cannot be read, or has no such split or no labelled image.
    """
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset
    from ultralytics.utils.checks import check_imgsz

    data, split = options.get("data"), options.get("split", "val")
    if data is None:
        raise ConfigError("data", "a data YAML", "none")
    stride = int(max(teacher.model[-1].stride))
    with quiet(), reading("data", f"a data YAML with images in its '{split}' split"):
        content = check_det_dataset(data)
        if not content.get(split):
            raise DataError("data", f"a data YAML with a '{split}' split", str(data))
        imgsz = check_imgsz(options.get("imgsz", DEFAULT_CFG.imgsz), stride=stride, floor=stride)
        args: Any = get_cfg(overrides={"imgsz": imgsz, "task": "detect"})
        found: Any = build_yolo_dataset(args, content[split], 1, content, mode="val", rect=False, stride=stride)
    if not sum(len(label["cls"]) for label in found.labels):
        raise DataError("data", f"labelled objects in its '{split}' split", "images without a single label")
    return found
