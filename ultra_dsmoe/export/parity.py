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

from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.export.images import load_images as load_images
from ultra_dsmoe.export.parity_tally import DETECTION, NOISE, SCORE, SHARE, Tally
from ultra_dsmoe.export.runners import Runner, exported_runner, torch_runner
from ultra_dsmoe.nn.neck.expert_gate import GATE_FLOOR, ExpertGate

BOX_PX = 0.01  # how far boxes may lie apart

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
        share: Largest difference of a score as a share of the net's highest score of that class.
        share_class: The class that has it.
        mixed_up: What is another class's or coordinate's in the file, one phrase each.
        compared: Whether there was anything to compare.
        finite: Whether the file gave numbers only.
    """

    images: int
    box_px: float
    score: float
    experts_equal: bool | None
    routes: tuple[Route, ...]
    box_image: int = 0
    score_image: int = 0
    other_route: tuple[int, Route, Route] | None = None
    share: float = 0.0
    share_class: int = 0
    mixed_up: tuple[str, ...] = ()
    compared: bool = True
    finite: bool = True

    def agrees(self, box_px: float = BOX_PX, score: float = SCORE, share: float = SHARE) -> bool:
        """Whether boxes, scores, classes and experts agree within the tolerances."""
        near = self.box_px <= box_px and self.score <= score and self.share <= share
        return near and self.finite and self.compared and not self.mixed_up and self.experts_equal is not False

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
    model: Any,
    exported: str | Path,
    images: Tensor | Iterable[Tensor],
    batch: int = 1,
    nms: Suppression | None = None,
    *,
    noise: float = NOISE,
    final: bool = True,
) -> ParityReport:
    """Run a net and a file that was exported from it on the same images.

    A file with suppression inside is compared before it, where the file shows those predictions, and after it.

    Args:
        model: The net, or a ``YOLO`` object that holds it.
        exported: An ``.onnx`` or ``.torchscript`` file, or OpenVINO's folder.
        images: At the exported size: (M, C, H, W), or several (C, H, W); as the net takes them.
        batch: How many images the file takes at once; a last incomplete batch is filled up with its first image.
        nms: Settings of the suppression that the file was exported with, None for a file without.
        noise: Differences of scores up to here are no share of anything.
        final: Whether what is left after suppression has to be the same too; rounded boxes suppress others.

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
    whole = _before_nms(exported, gates) if nms else None
    tally = Tally()
    routes: list[Route] = []
    other: tuple[int, Route, Route] | None = None
    shown = gates > 0
    for group in _batches(images, batch):
        filled = _filled(group, batch)
        found, found_gates = theirs(filled)
        _select_head(net, found.shape[-1] == DETECTION and nms is None)
        expected, expected_gates = torch_runner(net)(group)
        pairs: list[tuple[np.ndarray, np.ndarray, float | None]] = [] if nms else [(expected, found, None)]
        if nms and whole:
            pairs.append((_corners(expected), whole(filled)[0], None))
        if nms and (final or not whole):
            pairs.append((_suppressed(expected, nms), found, nms.conf))
        shown = shown and len(found_gates) == gates
        for i in range(len(group)):
            tally.begin()
            for ours, exports, conf in pairs:
                tally.add(ours[i : i + 1], exports[i : i + 1], conf)
            routes.append(_route(expected_gates, i))
            if other is None and shown and _route(found_gates, i) != routes[-1]:
                other = len(routes) - 1, routes[-1], _route(found_gates, i)
    if not routes:
        raise DataError("images", "at least one image", "none")
    equal = other is None if shown else None
    box_image, score_image = int(np.argmax(tally.boxes)), int(np.argmax(tally.scores))
    share, share_class = tally.share(noise)
    return ParityReport(
        images=len(routes),
        box_px=tally.boxes[box_image],
        score=tally.scores[score_image],
        experts_equal=equal,
        routes=tuple(routes),
        box_image=box_image,
        score_image=score_image,
        other_route=other,
        share=share,
        share_class=share_class,
        mixed_up=tally.mixed_up(),
        compared=tally.compared,
        finite=tally.finite,
    )


def _before_nms(exported: str | Path, gates: int) -> Runner | None:
    """Return a runner of the predictions that a file's suppression chooses from, None where it does not show them."""
    try:
        return exported_runner(exported, gates, before_nms=True)
    except ConfigError:
        return None


def _corners(predictions: np.ndarray) -> np.ndarray:
    """Return predictions (B, 4 + K, A) whose boxes are corners, as the host's suppression inside a file has them."""
    centre, half = predictions[:, :2], predictions[:, 2:4] / 2
    return np.concatenate([centre - half, centre + half, predictions[:, 4:]], 1)


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
    out = np.zeros((len(kept), nms.max_det, DETECTION), np.float32)
    for row, detections in zip(out, kept, strict=True):
        row[: len(detections)] = detections.numpy()
    return out


def _route(gates: list[np.ndarray], image: int) -> Route:
    """Return the experts that the gates (B, N) chose; exported zeros are exact, weights are at least the floor."""
    return tuple(tuple(int(n) for n in np.flatnonzero(gate[image] >= GATE_FLOOR / 2)) for gate in gates)
