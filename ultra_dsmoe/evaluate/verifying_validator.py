"""Validation of a detector with a second stage, whose escapes and overkill are counted before and after it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import LOGGER, ops
from ultralytics.utils.metrics import box_iou
from ultralytics.utils.patches import imread

from ultra_dsmoe.errors import DataError
from ultra_dsmoe.evaluate.escapes import Tally
from ultra_dsmoe.evaluate.verifier import Found, Verifier, as_array
from ultra_dsmoe.files import whole_file

CONF = 0.25  # the host's for predictions: what an operator is shown
FILE = "verify.csv"  # in the run folder


class VerifyingValidator(DetectionValidator):
    """The host's validator, whose metrics are those of the boxes that a second stage leaves.

    Attributes:
        verifier: The second stage.
        shown_conf: Operating confidence, at which escapes and overkill are counted.
    """

    verifier: Verifier
    shown_conf: float = CONF
    device: Any  # the host's attributes, for the type checker
    names: Any

    def init_metrics(self, model: torch.nn.Module) -> None:
        """Begin to count."""
        super().init_metrics(model)
        self.tally = Tally(len(self.names))

    def update_metrics(self, preds: list[dict[str, torch.Tensor]], batch: dict[str, Any]) -> None:
        """Take the boxes that are not confirmed out of a batch, in place, so that the host's pictures lack them too."""
        found = [_found(pred, batch, i) for i, pred in enumerate(preds)]
        for i, (pred, stays) in enumerate(zip(preds, self.verifier.stays(found, self.device), strict=True)):
            targets, boxes = _truth(batch, i)
            before = self._matched(pred, targets, boxes)
            rows = torch.as_tensor(stays, device=pred["conf"].device)
            pred.update({name: values[rows] for name, values in pred.items()})
            self.tally.add(as_array(targets), (before, self._matched(pred, targets, boxes)))
        super().update_metrics(preds, batch)

    def _matched(
        self, pred: dict[str, torch.Tensor], targets: torch.Tensor, boxes: torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return classes of the boxes shown at the operating confidence, and which match a labelled box."""
        shown = pred["conf"] >= self.shown_conf
        classes = pred["cls"][shown] * (0 if self.args.single_cls else 1)
        right = np.zeros(len(classes), dtype=bool)
        if len(targets) and len(classes):
            overlaps = box_iou(boxes, pred["bboxes"][shown].float())
            right = self.match_predictions(classes, targets, overlaps)[:, 0].cpu().numpy()
        return as_array(classes), right

    def print_results(self) -> None:
        """Print the host's table, then escapes and overkill, and write them down."""
        super().print_results()
        names = [str(self.names[i]) for i in sorted(self.names)]
        LOGGER.info(f"{self.verifier.summary()}, counted at conf={self.shown_conf:g}:")
        LOGGER.info(self.tally.table(names, self.args.verbose))
        with whole_file(self.save_dir / FILE) as part:
            part.write_text(self.tally.csv(names), encoding="utf-8")


def _found(pred: dict[str, torch.Tensor], batch: dict[str, Any], i: int) -> Found:
    """Return the boxes of an image where they lie in its file, which has more to see than the net's input."""
    (gain_y, gain_x), (left, top) = batch["ratio_pad"][i]
    boxes = (as_array(pred["bboxes"]) - [left, top, left, top]) / [gain_x, gain_y, gain_x, gain_y]
    picture = functools.partial(_read, batch["im_file"][i])
    return Found(picture, boxes, as_array(pred["conf"]), as_array(pred["cls"]))


def _truth(batch: dict[str, Any], i: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return classes (L,) and corners in pixels of the net's input (L, 4) of an image's labelled boxes."""
    rows = batch["batch_idx"] == i
    height, width = batch["img"].shape[2:]
    boxes = ops.xywh2xyxy(batch["bboxes"][rows])
    return batch["cls"][rows].squeeze(-1), boxes * boxes.new_tensor([width, height, width, height])


def _read(file: str) -> np.ndarray:
    """Read an image.

    Raises:
        DataError: If it cannot be read.
    """
    pixels = imread(file)
    if pixels is None:
        raise DataError(file, "a readable image", "none")
    return pixels
