"""Predictions from several views of an image, ``augment=True``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from ultralytics.utils.torch_utils import scale_img

VIEWS = ((1.0, False), (0.83, True), (0.67, False))  # scale of each view and whether it is mirrored: the host's three
MIRROR_AXIS = 3  # of (B, C, H, W), and the host's number for a view mirrored along it


def predict_views(net: Any, x: Tensor) -> tuple[Tensor, None]:
    """Run a detector on several views of its images and return all their boxes, in the images' own pixels.

    The host looks at its own heads alone this way: its method asks for its head's very class.

    Args:
        net: Detector that is not end-to-end, in evaluation mode.
        x: Images (B, C, H, W) as the first row reads them.

    Returns:
        Predictions (B, 4 + K, A) of all views, without the levels that a larger or smaller view covers better; and
        None in the place of the maps.
    """
    outputs = []
    for scale, mirrored in VIEWS:
        view = scale_img(x.flip(MIRROR_AXIS) if mirrored else x, scale, gs=int(net.stride.max()))
        y = net._predict_once(view)[0]
        outputs.append(net._descale_pred(y, MIRROR_AXIS if mirrored else None, scale, x.shape[-2:]))
    return torch.cat(net._clip_augmented(outputs), -1), None
