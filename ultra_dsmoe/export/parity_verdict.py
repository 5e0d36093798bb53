"""The gate behind every export of our networks: the file must do what the net does, or the export fails."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor
from ultralytics.utils import LOGGER

from ultra_dsmoe.errors import DSMoEError
from ultra_dsmoe.export.parity import ParityReport, Suppression, compare
from ultra_dsmoe.export.parity_tally import NOISE, SCORE, SHARE
from ultra_dsmoe.logs import at_level


class ParityError(DSMoEError):
    """An exported file that does something else than the net it came from."""


@dataclass(frozen=True)
class Limits:
    """How far a file of some precision may be from its net; None where rounding leaves nothing to judge.

    Attributes:
        box_px: Boxes, in pixels of the network's input.
        score: Scores.
        share: Scores, as a share of the net's highest of their class.
        noise: Differences of scores up to here are no share of anything.
        experts: Whether the chosen experts have to be the same; rounding may turn a choice between near equals.
        map_drop: mAP50 and mAP50-95, either way.
    """

    box_px: float | None
    score: float | None
    share: float | None
    noise: float
    experts: bool
    map_drop: float


# By bits (our choice). Single precision: a tenth of a pixel, six times what rounding did to an untrained net on drawn
# images (0.016 px; trained ones stay below 0.001). Half: four times what rounding did to a trained net at 160 px (1.2).
# Integers: only mAP says whether a file is good, and one point is what the project allows itself. What is another
# class's or coordinate's is refused at any precision.
LIMITS = {
    32: Limits(0.1, SCORE, SHARE, NOISE, experts=True, map_drop=1e-3),
    16: Limits(5.0, 2e-2, 0.25, 1e-3, experts=False, map_drop=5e-3),
    8: Limits(None, None, None, NOISE, experts=False, map_drop=1e-2),
}
OFF = "dsmoe_parity=False"
SUFFIXES = {".onnx", ".torchscript"}
BUILT_FROM_ONNX = {".engine", ".mnn"}


@dataclass(frozen=True)
class Export:
    """What was exported, as far as the gate needs to know.

    Attributes:
        model: The ``YOLO`` object, its net set as it was exported.
        file: The exported file or folder.
        batch: Images that the file takes at once.
        bits: Precision: 32, 16 or 8.
        nms: Settings of the suppression inside the file, None for a file without.
    """

    model: Any
    file: str
    batch: int = 1
    bits: int = 32
    nms: Suppression | None = None


def runnable(file: str | Path) -> Path | None:
    """Return what can be run here for an exported file: itself, the ONNX file that it was built from, or nothing."""
    path = Path(file)
    if path.suffix in BUILT_FROM_ONNX:
        quantized = path.with_name(f"{path.stem}-int8.onnx")
        path = quantized if quantized.is_file() else path.with_suffix(".onnx")
    known = path.suffix in SUFFIXES and path.is_file()
    return path if known or (path.is_dir() and any(path.glob("*.xml"))) else None


def check_export(export: Export, images: list[Tensor], split: dict[str, Any] | None = None) -> None:
    """Compare an exported file with its net, print how near they are, and refuse it where it moved.

    Args:
        export: What was exported.
        images: Sets of images to compare on, each (M, C, H, W) of one size that the file takes.
        split: Arguments of the host's ``val`` (``data``, ``split``, ``imgsz``, ``device``) to compare mAP on, or None.

    Raises:
        ParityError: If boxes, scores, classes, experts or mAP are further apart than `LIMITS`, or the comparison fails.
    """
    path = runnable(export.file)
    if path is None:
        LOGGER.warning(f"parity: not checked, {Path(export.file).name} cannot be run here")
        return
    if path != Path(export.file):
        LOGGER.warning(
            f"parity: {Path(export.file).name} itself is not run, the file it was built from is: {path.name}"
        )
    try:
        problems = _problems(export, path, images, split)
    except Exception as e:  # runtimes' errors have no common base, and a file that cannot be checked is refused
        cause = str(e).partition("\n")[0] or type(e).__name__
        raise ParityError(path.name, f"a file that can be compared with the net ({OFF} skips this)", cause) from e
    if problems:
        left = "; ".join(dict.fromkeys(problems))
        raise ParityError(path.name, "what the net gives", f"{left}; it is not written ({OFF} skips this check)")


def _problems(export: Export, path: Path, images: list[Tensor], split: dict[str, Any] | None) -> list[str]:
    """Compare a file that can be run with its net; return what is too far apart."""
    limits = LIMITS[export.bits]
    settings: dict[str, Any] = {"noise": limits.noise, "final": limits.experts}
    reports = [compare(export.model, path, stack, export.batch, export.nms, **settings) for stack in images]
    problems = [problem for report in reports for problem in differences(report, limits)]
    is_judged = limits.score is not None
    for report in reports if is_judged else ():
        LOGGER.info(f"parity: {report}")
    shown = ""
    if split is not None:
        before, after = map_of(export.model, split), map_of(path, {**split, "batch": export.batch})
        shown = ", ".join(f"{name} {a:.4f} -> {b:.4f}" for name, a, b in zip(MAPS, before, after, strict=True))
        if is_judged:
            LOGGER.info(f"parity: {split['split']} split: {shown}")
        if not all(abs(a - b) <= limits.map_drop for a, b in zip(before, after, strict=True)):
            problems.append(f"{shown} on the {split['split']} split (limit {limits.map_drop:g})")
    if not is_judged:
        decision = f"{shown} on the {split['split']} split (limit {limits.map_drop:g})" if split else ""
        LOGGER.log(logging.INFO if split else logging.WARNING, _by_map(export.bits, reports, decision))
    return problems


def _by_map(bits: int, reports: list[ParityReport], decision: str) -> str:
    """Return the line about a file of which mAP decides: that first, and then what the images tell and do not tell.

    Args:
        bits: Its precision.
        reports: Of the images that were compared.
        decision: The comparison of mAP, empty where there was none.
    """
    count = sum(report.images for report in reports)
    boxes, scores = max(report.box_px for report in reports), max(report.score for report in reports)
    mixed = "an exchanged" if any(report.mixed_up for report in reports) else "no exchanged"
    return (
        f"parity: at {bits} bits mAP decides, {decision or 'which was not compared (dsmoe_parity=val does)'}; {count} "
        f"images show {mixed} class or coordinate; that rounding moved boxes by up to {boxes:.2g} px and scores by up "
        f"to {scores:.2g} is not judged"
    )


def differences(report: ParityReport, limits: Limits) -> list[str]:
    """Say what lies further apart than the limits, with the image that shows it most; nothing where all is well."""
    found = []
    if limits.box_px is not None and not report.box_px <= limits.box_px:
        found.append(f"boxes moved by {report.box_px:.3g} px in image {report.box_image} (limit {limits.box_px:g})")
    if limits.score is not None and not report.score <= limits.score:
        found.append(f"scores moved by {report.score:.3g} in image {report.score_image} (limit {limits.score:g})")
    elif limits.share is not None and not report.share <= limits.share:
        found.append(
            f"scores of class {report.share_class} moved by {report.share:.2g} of their highest "
            f"(limit {limits.share:g})"
        )
    found += report.mixed_up
    if not report.finite:
        found.append("predictions that are no numbers")
    if not report.compared:
        found.append("nothing to compare: no detection, and the predictions before suppression are not shown")
    if limits.experts and report.other_route is not None:
        image, ours, theirs = report.other_route
        found.append(f"other experts in image {image}: net {_experts(ours)}, file {_experts(theirs)}")
    return found


def _experts(route: tuple[tuple[int, ...], ...]) -> str:
    return " | ".join(" ".join(map(str, experts)) for experts in route)


MAPS = ("mAP50", "mAP50-95")


def map_of(model: Any, arguments: dict[str, Any]) -> tuple[float, float]:
    """Return mAP50 and mAP50-95 of a ``YOLO`` object, which is left as it is, or of an exported file."""
    from ultralytics import YOLO

    model = YOLO(model, task="detect") if isinstance(model, Path) else deepcopy(model)
    with TemporaryDirectory() as folder, at_level(LOGGER, logging.WARNING):  # the host's tables stay back
        box = model.val(**arguments, rect=False, plots=False, project=folder, workers=0).box
    return float(box.map50), float(box.map)
