"""Prediction with classifiers of ours: an image gets its texts from its sidecar, else they are measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from ultralytics.data.utils import IMG_FORMATS
from ultralytics.models.yolo.classify import ClassificationPredictor

from ultra_dsmoe.data.pairs import require_room, with_plane
from ultra_dsmoe.model.pair_state import named_encoder, texts_of
from ultra_dsmoe.nn.fusion.split_text import IMAGE, WITH_TEXT

CHANNELS = ("channels", "ch")  # where newer and older hosts keep how many channels a loaded net takes


class PairPredictor(ClassificationPredictor):
    """The host's predictor for `PairModel` and files exported from it."""

    batch: Any  # the host's attribute, for the type checker

    def setup_model(self, model: Any, *args: Any, **kwargs: Any) -> None:
        """Load the model as the host does; arguments are the host's."""
        self.source_net = model if model is not None else self.args.model
        self.texts = texts_of(self.source_net)
        super().setup_model(model, *args, **kwargs)

    def setup_source(self, *args: Any, **kwargs: Any) -> None:
        """Open the source as the host does; arguments are the host's.

        Pictures have three channels whatever the net takes: the host would make arrays of one or four channels into as
        many as the net has, though the fourth is for the texts.
        """
        if self.texts is not None:  # a predictor is kept between calls, a name holds for one
            self.texts.named = named_encoder(self.source_net)
        carried = {name: count for name in CHANNELS if (count := getattr(self.model, name, None)) == WITH_TEXT}
        try:
            for name in carried if self.texts is not None else ():
                setattr(self.model, name, IMAGE)
            super().setup_source(*args, **kwargs)
        finally:
            for name, count in carried.items():
                setattr(self.model, name, count)

    def preprocess(self, img: Any) -> Tensor:
        """Prepare images as the host does, and add their texts where the net wants them.

        Args:
            img: Pictures of the source, or a tensor (B, 3, H, W), or (B, 4, H, W) with texts.
        """
        if self.texts is not None and not isinstance(img, Tensor):
            img = [_with_three_channels(picture) for picture in img]  # older hosts leave arrays as they are
        images = super().preprocess(img)
        if self.texts is None or images.shape[1] != IMAGE:
            return images
        require_room(self.texts.size, (int(images.shape[2]), int(images.shape[3])))
        numbers = [self._numbers(Path(place), picture) for place, picture in zip(*self._pictures(img), strict=True)]
        return torch.stack([with_plane(image, own) for image, own in zip(images, numbers, strict=True)])

    def _pictures(self, img: Any) -> tuple[list[str], list[np.ndarray]]:
        """Return paths and pictures, RGB uint8, of the batch."""
        if isinstance(img, Tensor):
            pictures = (img.float().cpu().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
            return [str(path) for path in self.batch[0]], list(pictures)
        return [str(path) for path in self.batch[0]], [np.ascontiguousarray(picture[..., ::-1]) for picture in img]

    def _numbers(self, place: Path, picture: np.ndarray) -> np.ndarray:
        """Return what one image carries: of its file, or of what it shows where it is a frame or an array."""
        assert self.texts is not None
        is_file = place.suffix[1:].lower() in IMG_FORMATS and place.is_file()
        return self.texts.encode([place]).numbers[0] if is_file else self.texts.describe(picture)


def _with_three_channels(picture: np.ndarray) -> np.ndarray:
    """Return a picture with blue, green and red: a grey one has each alike, and what is behind them goes."""
    picture = picture[..., None] if picture.ndim == 2 else picture
    return np.repeat(picture, IMAGE, axis=2) if picture.shape[2] == 1 else picture[..., :IMAGE]
