"""How sharply a gate weighs the experts that it has chosen: fitted on one half of the validation images.

The temperature of the gate's softmax changes no choice, only how unequally the k chosen experts are weighed. Training
hardly moves it. So it is set afterwards, to what gives the highest mAP50-95 on one half of the images; what that is
worth is measured on the other half, which had no part in it.

Source: [DSMoE] prose around Eq. 20, 21: sharpness is calibrated on validation images. Our choice: the measure, the
steps, the halves, and one factor for all gates of a net.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ultra_dsmoe.data.groups import check_groups, group_numbers
from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.evaluate.bootstrap import mean_ap
from ultra_dsmoe.evaluate.evaluation import Evaluation, ImageStats
from ultra_dsmoe.evaluate.paired_bootstrap import Effect, Points, Reference, percentage_points
from ultra_dsmoe.explain.record import blocks
from ultra_dsmoe.nn.neck.expert_gate import TAU_RANGE, ExpertGate

FACTORS = tuple(2 ** (step / 2) for step in range(-4, 5))  # of the trained sharpness 1 / tau: a quarter to four times
TIE = 1e-9  # mAP that is no higher than this above another is as high: the trained sharpness stays


@dataclass(frozen=True)
class Calibration:
    """What was tried and what it is worth.

    Attributes:
        tried: Factor of the sharpness to mAP50 and mAP50-95 on the fitting half, in points.
        factor: The best of them.
        taus: Temperature of each gate under it.
        base: mAP50 and mAP50-95 of the other half as trained, in points.
        effect: What the factor does there.
        notes: On halves and intervals.
    """

    tried: dict[float, Points]
    factor: float
    taus: list[float]
    base: Points
    effect: Effect
    notes: list[str]


def calibrate(
    evaluation: Evaluation, boot: int, seed: int = 0, progress: Callable[[str], None] = lambda line: None
) -> Calibration:
    """Fit the sharpness of a net's gates.

    Args:
        evaluation: Checkpoint and data.
        boot: Bootstrap resamples of the other half.
        seed: Of the halves and the resamples.
        progress: Called with a line before every pass.

    Raises:
        ConfigError: If the net has no gate that weighs at least two experts.
        DataError: If the images cannot be halved.
    """
    gates = blocks(evaluation.net, ExpertGate)
    if not any(gate.k > 1 for gate in gates):
        raise ConfigError("model", "a network whose gate weighs at least two experts", str(evaluation.path))
    own = [gate.tau.item() for gate in gates]
    factors = [f for f in FACTORS if all(TAU_RANGE[0] <= tau / f <= TAU_RANGE[1] for tau in own)] or [1.0]
    factors.sort(key=lambda f: abs(np.log(f)))  # the trained one first: nothing else wins a tie
    seen: dict[float, ImageStats] = {}
    for i, factor in enumerate(factors, 1):
        progress(f"{i}/{len(factors)} {factor:.2f} times as sharp")
        seen[factor] = evaluation.run(sharpened(gates, factor))
    fitting = halves(seen[1.0], check_groups(str(evaluation.args["data"]), evaluation.groups), seed)
    score = {f: mean_ap(subset(stats, fitting)) for f, stats in seen.items()}
    best = 1.0
    for factor in factors:
        best = factor if score[factor][1] > score[best][1] + TIE else best
    rest = Reference(subset(seen[1.0], ~fitting), boot, seed)
    notes = [f"fitted on {fitting.sum()} images, judged on the other {(~fitting).sum()}; {rest.about}"]
    tried = {f: percentage_points(score[f]) for f in sorted(factors)}
    taus = [tau / best for tau in own]
    return Calibration(tried, best, taus, rest.base, rest.effect(subset(seen[best], ~fitting)), notes)


@contextmanager
def sharpened(gates: list[ExpertGate], factor: float) -> Iterator[None]:
    """Divide the temperature of gates for the length of the block."""
    own = [gate.log_tau.detach().clone() for gate in gates]
    try:
        for gate in gates:
            if factor != 1:
                gate.set_tau(gate.tau.item() / factor)
        yield
    finally:
        for gate, log_tau in zip(gates, own, strict=True):
            gate.log_tau.data.copy_(log_tau)


def halves(stats: ImageStats, groups: str | None, seed: int) -> np.ndarray:
    """Return which images are to fit on, (I,) of booleans: half of the boards or tiles, drawn.

    Raises:
        DataError: If there are not two of them, or a half has no labelled object.
    """
    number = group_numbers(stats.files, groups)
    count = int(number.max()) + 1
    order = np.random.default_rng(seed).permutation(count)
    fitting = np.isin(number, order[: count // 2])
    for side in (fitting, ~fitting):
        if not sum(len(labels) for labels, there in zip(stats.target_cls, side, strict=True) if there):
            raise DataError("data", "two halves with labelled objects each", f"{len(number)} images, {count} groups")
    return fitting


def subset(stats: ImageStats, keep: np.ndarray) -> ImageStats:
    """Return what was seen of some images, (I,) of booleans."""
    kept = {f.name: [v for v, k in zip(getattr(stats, f.name), keep, strict=True) if k] for f in fields(ImageStats)}
    return ImageStats(**kept)


def checkpoint_with(path: Path, taus: list[float]) -> bytes:
    """Return the content of a checkpoint whose gates have these temperatures, all else as it is.

    Args:
        path: The checkpoint.
        taus: Of its gates, in the order of its rows.
    """
    from ultralytics.nn.tasks import torch_safe_load

    content: dict[str, Any] = torch_safe_load(str(path))[0]
    for net in (content.get("ema"), content.get("model")):
        if net is not None:
            for gate, tau in zip(blocks(net, ExpertGate), taus, strict=True):
                gate.set_tau(tau)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def cells(found: Calibration) -> list[list[str]]:
    """Return the table as text, headings first."""
    head = ["sharpness", "", "mAP50", "mAP50-95", ""]
    named = {1.0: "as trained", found.factor: "best" if found.factor != 1 else "as trained, best"}
    return [head, *([f"x {f:.2f}", named.get(f, ""), f"{a:.2f}", f"{b:.2f}", ""] for f, (a, b) in found.tried.items())]
