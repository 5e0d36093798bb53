"""Parity of an exported file with the net it came from: boxes, scores, and the experts chosen inside the file."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ultra_dsmoe.errors import DataError, ShapeError
from ultra_dsmoe.export.images import load_images as load_images
from ultra_dsmoe.export.runners import exported_runner, torch_runner
from ultra_dsmoe.nn.neck.expert_gate import GATE_FLOOR, ExpertGate

BOX_PX = 0.01  # how far boxes may lie apart
SCORE = 1e-3  # how far scores may lie apart (our choice: below what any threshold is set to)
FINAL_COLUMNS = 6  # x1, y1, x2, y2, score, class: detections that the file has selected itself


@dataclass(frozen=True)
class ParityReport:
    """How far an exported file is from the net.

    Attributes:
        images: How many images were compared.
        box_px: Largest difference of a box coordinate, in pixels of the network's input.
        score: Largest difference of a score.
        experts_equal: Whether every gate chose the same experts for every image; None where the net has no gate or the
            file does not show its choice.
        routes: The net's experts, for every image one tuple per gate.
    """

    images: int
    box_px: float
    score: float
    experts_equal: bool | None
    routes: tuple[tuple[tuple[int, ...], ...], ...]

    def agrees(self, box_px: float = BOX_PX, score: float = SCORE) -> bool:
        """Whether boxes, scores and experts agree within the tolerances."""
        return self.box_px <= box_px and self.score <= score and self.experts_equal is not False

    def __str__(self) -> str:
        """Return one line for logs."""
        experts = {True: "same experts", False: "OTHER EXPERTS", None: "experts not shown"}[self.experts_equal]
        return f"{self.images} images: boxes within {self.box_px:.2g} px, scores within {self.score:.2g}, {experts}"


def compare(model: Any, exported: str | Path, images: Tensor | Iterable[Tensor]) -> ParityReport:
    """Run a net and a file that was exported from it on the same images, one by one.

    Args:
        model: The net, or a ``YOLO`` object that holds it.
        exported: An ``.onnx`` or ``.torchscript`` file, or OpenVINO's folder.
        images: At the exported size: (M, 3, H, W), or several (3, H, W); RGB in [0, 1].

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
    box_px, score, equal = 0.0, 0.0, True
    routes: list[tuple[tuple[int, ...], ...]] = []
    shown = gates > 0
    for image in images:
        batch = image.float().unsqueeze(0)
        found, found_gates = theirs(batch)
        _select_head(net, found.shape[-1] == FINAL_COLUMNS)
        expected, expected_gates = torch_runner(net)(batch)
        boxes, scores = _differences(expected, found)
        box_px, score = max(box_px, boxes), max(score, scores)
        routes.append(tuple(_chosen(gate) for gate in expected_gates))
        shown = shown and len(found_gates) == gates
        equal = equal and routes[-1] == tuple(_chosen(gate) for gate in found_gates)
    if not routes:
        raise DataError("images", "at least one image", "none")
    return ParityReport(len(routes), box_px, score, equal if shown else None, tuple(routes))


def _select_head(net: Any, final: bool) -> None:
    """Let a net with a one-to-one head use it where the file did, and only there."""
    if getattr(net.model[-1], "one2one_cv2", None) is not None:
        net.end2end = final


def _chosen(gate: np.ndarray) -> tuple[int, ...]:
    """Return the experts that a gate (1, N) chose; exported zeros are exact, weights are at least the floor."""
    return tuple(int(i) for i in np.flatnonzero(gate[0] >= GATE_FLOOR / 2))


def _differences(expected: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Return the largest difference of boxes and scores of two predictions.

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
