"""Parity of an exported file with the net it came from: boxes, scores, and the experts chosen inside the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ultra_dsmoe.errors import DataError, ShapeError
from ultra_dsmoe.export.images import load_images as load_images
from ultra_dsmoe.export.runners import exported_runner, torch_runner
from ultra_dsmoe.nn.neck.expert_gate import GATE_FLOOR, ExpertGate

BOX_PX = 0.01  # how far boxes may lie apart
SCORE = 1e-3  # how far scores may lie apart (our choice: below what any threshold is set to)
FINAL_COLUMNS = 6  # x1, y1, x2, y2, score, class: detections that the file has selected itself

Route = tuple[tuple[int, ...], ...]  # the experts of one image, one tuple per gate


@dataclass(frozen=True)
class ParityReport:
    """How far an exported file is from the net.

    Attributes:
        images: How many images were compared.
        box_px: Largest difference of a box coordinate, in pixels of the network's input.
        score: Largest difference of a score.
        experts_equal: Whether every gate chose the same experts for every image; None where the net has no gate or the
            file does not show its choice.
        routes: The net's experts of every image.
        box_image: Number of the image whose box differs most.
        score_image: Number of the image whose score differs most.
        other_route: The first image whose experts differ: its number, the net's experts and the file's.
    """

    images: int
    box_px: float
    score: float
    experts_equal: bool | None
    routes: tuple[Route, ...]
    box_image: int = 0
    score_image: int = 0
    other_route: tuple[int, Route, Route] | None = None

    def agrees(self, box_px: float = BOX_PX, score: float = SCORE) -> bool:
        """Whether boxes, scores and experts agree within the tolerances."""
        return self.box_px <= box_px and self.score <= score and self.experts_equal is not False

    def __str__(self) -> str:
        """Return one line for logs."""
        experts = {True: "same experts", False: "OTHER EXPERTS", None: "experts not shown"}[self.experts_equal]
        return f"{self.images} images: boxes within {self.box_px:.2g} px, scores within {self.score:.2g}, {experts}"


@dataclass(frozen=True)
class Suppression:
    """Settings of the non-maximum suppression that a file was exported with; the host's defaults.

    Attributes:
        conf: Lowest score.
        iou: Overlap from which the lower score goes.
        max_det: Most detections per image.
        agnostic: Whether boxes of different classes suppress each other.
    """

    conf: float = 0.25
    iou: float = 0.7
    max_det: int = 300
    agnostic: bool = False


def compare(
    model: Any, exported: str | Path, images: Tensor | Iterable[Tensor], batch: int = 1, nms: Suppression | None = None
) -> ParityReport:
    """Run a net and a file that was exported from it on the same images.

    Args:
        model: The net, or a ``YOLO`` object that holds it.
        exported: An ``.onnx`` or ``.torchscript`` file, or OpenVINO's folder.
        images: At the exported size: (M, 3, H, W), or several (3, H, W); RGB in [0, 1].
        batch: How many images the file takes at once; a last incomplete batch is filled up with its first image.
        nms: Settings of the suppression that the file was exported with, None for a file without.

    Returns:
        The largest differences.

    Raises:
        ConfigError: If the file is none that can be run.
        ShapeError: If its predictions have another shape than the net's.
        DataError: If there is no image.
    """
    net = model if isinstance(model, nn.Module) and not hasattr(model, "ckpt_path") else model.model
    net = deepcopy(net).cpu().float().eval()
    gates = sum(isinstance(m, ExpertGate) for m in net.modules())
    theirs = exported_runner(exported, gates)
    boxes: list[float] = []
    scores: list[float] = []
    routes: list[Route] = []
    other: tuple[int, Route, Route] | None = None
    shown = gates > 0
    for group in _batches(images, batch):
        found, found_gates = theirs(_filled(group, batch))
        _select_head(net, found.shape[-1] == FINAL_COLUMNS and nms is None)
        expected, expected_gates = torch_runner(net)(group)
        expected = expected if nms is None else _suppressed(expected, nms)
        shown = shown and len(found_gates) == gates
        for i in range(len(group)):
            differences = _differences(expected[i : i + 1], found[i : i + 1])
            boxes.append(differences[0])
            scores.append(differences[1])
            routes.append(_route(expected_gates, i))
            if other is None and shown and _route(found_gates, i) != routes[-1]:
                other = len(routes) - 1, routes[-1], _route(found_gates, i)
    if not routes:
        raise DataError("images", "at least one image", "none")
    worst_box, worst_score = int(np.argmax(boxes)), int(np.argmax(scores))
    equal = other is None if shown else None
    return ParityReport(
        len(routes), boxes[worst_box], scores[worst_score], equal, tuple(routes), worst_box, worst_score, other
    )


def _batches(images: Tensor | Iterable[Tensor], batch: int) -> Iterator[Tensor]:
    """Yield the images in groups of at most ``batch``, in fp32."""
    group: list[Tensor] = []
    for image in images:
        group.append(image.float())
        if len(group) == batch:
            yield torch.stack(group)
            group = []
    if group:
        yield torch.stack(group)


def _filled(group: Tensor, batch: int) -> Tensor:
    """Fill a group up to ``batch`` images with its first."""
    return torch.cat([group, group[:1].expand(batch - len(group), -1, -1, -1)])


def _select_head(net: Any, final: bool) -> None:
    """Let a net with a one-to-one head use it where the file did, and only there."""
    if getattr(net.model[-1], "one2one_cv2", None) is not None:
        net.end2end = final


def _suppressed(predictions: np.ndarray, nms: Suppression) -> np.ndarray:
    """Return the detections that the host's suppression leaves, padded with zeros, (B, max_det, 6)."""
    from ultralytics.utils.nms import non_max_suppression

    kept = non_max_suppression(
        torch.from_numpy(predictions), nms.conf, nms.iou, agnostic=nms.agnostic, max_det=nms.max_det
    )
    out = np.zeros((len(kept), nms.max_det, FINAL_COLUMNS), np.float32)
    for row, detections in zip(out, kept, strict=True):
        row[: len(detections)] = detections.numpy()
    return out


def _route(gates: list[np.ndarray], image: int) -> Route:
    """Return the experts that the gates (B, N) chose; exported zeros are exact, weights are at least the floor."""
    return tuple(tuple(int(n) for n in np.flatnonzero(gate[image] >= GATE_FLOOR / 2)) for gate in gates)


def _differences(expected: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Return the largest difference of boxes and scores of two predictions for one image.

    Raises:
        ShapeError: If the shapes differ.
    """
    if expected.shape != found.shape:
        raise ShapeError("predictions of the exported file", f"shape {expected.shape} of the net's", found.shape)
    if expected.shape[-1] == FINAL_COLUMNS:
        return _detections(expected[0], found[0])
    delta = np.abs(expected - found)  # (1, 4 + K, A)
    return _largest(delta[:, :4]), _largest(delta[:, 4:])


def _detections(expected: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Match selected detections (M, 6) both ways: equal scores may come in another order."""
    lowest = max(expected[:, 4].min(), found[:, 4].min()) + SCORE  # the last ones may make way for each other
    boxes = scores = 0.0
    for ones, others in ((expected, found), (found, expected)):
        for row in ones[ones[:, 4] > lowest]:
            mates = others[others[:, 5] == row[5]]
            if not len(mates):
                return float("inf"), float("inf")
            delta = np.abs(mates[:, :5] - row[:5])
            near = delta[delta.max(1).argmin()]
            boxes, scores = max(boxes, _largest(near[:4])), max(scores, _largest(near[4:]))
    return boxes, scores


def _largest(values: np.ndarray) -> float:
    """Return the maximum; not a number counts as infinitely far."""
    return float(np.nan_to_num(values, nan=np.inf).max()) if values.size else 0.0
