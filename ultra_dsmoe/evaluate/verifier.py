"""Look again at the doubtful boxes of a batch of images: cut their crops, ask the classifier, say which boxes stay."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from ultralytics.utils import LOGGER

from ultra_dsmoe.data.crop_places import region
from ultra_dsmoe.data.crops import MARGIN
from ultra_dsmoe.evaluate.second_look import Rule, SharedNames, verify


class Found(NamedTuple):
    """Boxes of one image.

    Attributes:
        picture: Returns the image, BGR uint8 (H, W, 3 or 1); called where a box is doubtful.
        boxes_xyxy_px: Corners in pixels of the image, (N, 4).
        scores: (N,).
        classes: Numbers of the detector's classes, (N,).
    """

    picture: Callable[[], np.ndarray]
    boxes_xyxy_px: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


class Verifier:
    """The second stage of one call of a detector.

    Attributes:
        asked: Boxes that were looked at.
        dropped: Of them, those that went.
    """

    def __init__(self, classifier: Any, detector_names: dict[int, str], rule: Rule) -> None:
        """Match the classes of detector and classifier.

        Args:
            classifier: What has ``names`` and ``probabilities(crops, device)``, as `BoxClassifier` does.
            detector_names: Class number to name.
            rule: Which boxes are doubtful, and what confirms them.

        Raises:
            ConfigError: If they have no class in common.
        """
        self.classifier, self.rule = classifier, rule
        self.names = SharedNames.find(detector_names, classifier.names)
        self.asked = self.dropped = 0

    def stays(self, images: Sequence[Found], device: Any) -> list[np.ndarray]:
        """Return which boxes of each image stay, (N,) of bool; the classifier is asked once for all of them.

        Args:
            images: A batch.
            device: Where the classifier computes.
        """
        sizes = [len(found.scores) for found in images]
        owners = np.repeat(np.arange(len(images)), sizes)
        starts = np.cumsum([0, *sizes])

        def ask(asked: np.ndarray) -> np.ndarray:
            self.asked += len(asked)
            crops: list[np.ndarray] = []
            for owner in np.unique(owners[asked]):
                own = asked[owners[asked] == owner] - starts[owner]
                crops += cut(images[owner].picture(), images[owner].boxes_xyxy_px[own])
            return self.classifier.probabilities(crops, device)

        scores = np.concatenate([np.zeros(0), *(found.scores for found in images)])
        classes = np.concatenate([np.zeros(0), *(found.classes for found in images)])
        stays = verify(scores, classes.astype(np.int64), ask, self.names, self.rule)
        self.dropped += int((~stays).sum())
        return [stays[start:end] for start, end in itertools.pairwise(starts)]

    def on_predict_postprocess_end(self, predictor: Any) -> None:
        """Take the boxes that are not confirmed out of the results of a batch; a callback of the host's predictor."""
        results = predictor.results
        for i, stays in enumerate(self.stays([_found(result) for result in results], predictor.device)):
            if not stays.all():
                results[i] = _narrowed(results[i], stays)

    def on_predict_end(self, predictor: Any) -> None:
        """Say how many boxes were looked at; a callback of the host's predictor."""
        if predictor.args.verbose:
            LOGGER.info(self.summary())

    def summary(self) -> str:
        """Return in one line what came of it."""
        of = f"scores from {self.rule.low:g} to {self.rule.high:g}"
        return f"Second look: {self.dropped} of {self.asked} doubtful boxes dropped ({of})"


def cut(picture: np.ndarray, boxes_xyxy_px: np.ndarray) -> list[np.ndarray]:
    """Return the crops of boxes, cut as ``dsmoe-yolo data crops`` cuts them: what a classifier is trained on.

    Args:
        picture: BGR uint8 (H, W, 3), or gray (H, W, 1).
        boxes_xyxy_px: Corners, (N, 4).
    """
    size = (picture.shape[0], picture.shape[1])
    coloured = picture if picture.shape[2] > 1 else np.repeat(picture, 3, axis=2)
    places = [region(region(box, size, 0), size, MARGIN) for box in boxes_xyxy_px.tolist()]
    return [np.ascontiguousarray(coloured[y0:y1, x0:x1, :3]) for x0, y0, x1, y1 in places]


def as_array(values: Any) -> np.ndarray:
    """Return a tensor of any device and precision, or an array, as float64."""
    array = values.detach().float().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    return array.astype(np.float64)


def _found(result: Any) -> Found:
    """Return the boxes of a result of the host's."""
    boxes = result.boxes
    return Found(lambda: result.orig_img, as_array(boxes.xyxy), as_array(boxes.conf), as_array(boxes.cls))


def _narrowed(result: Any, stays: np.ndarray) -> Any:
    """Return a result with some of its boxes; also the features that trackers ask for belong to boxes."""
    rows = torch.as_tensor(stays, device=result.boxes.data.device)
    kept, features = result[rows], getattr(result, "feats", None)
    if isinstance(features, torch.Tensor):
        kept.feats = features[rows.to(features.device)]
    return kept
