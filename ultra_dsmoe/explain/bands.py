"""What frequency enhancement sees in an image: its low and high band, and what its gates make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ultra_dsmoe.evaluate.evaluation import Evaluation
from ultra_dsmoe.evaluate.text_table import csv_text
from ultra_dsmoe.explain.attention import IMAGES, choose, in_boxes
from ultra_dsmoe.explain.distill_masks import dataset
from ultra_dsmoe.explain.plots.bands import draw
from ultra_dsmoe.explain.record import blocks
from ultra_dsmoe.explain.routing_map import block_suffixes
from ultra_dsmoe.nn.neck.fgpem import FGPEM

LOW, HIGH, SPATIAL = "low band", "high band", "spatial gate"


class Bands(NamedTuple):
    """What an `FGPEM` sees in one image.

    Attributes:
        stride: Pixels per cell.
        maps: Of each cell, (H, W), by what it is: mean magnitude over the channels of the low band less its own mean
            and of the high band; the spatial gate, where there is one.
        channels: Channel gate, (C,); None where there is none.
    """

    stride: int
    maps: dict[str, np.ndarray]
    channels: np.ndarray | None


@torch.no_grad()
def see(net: Any, image: Tensor) -> dict[FGPEM, Bands]:
    """Return what every frequency enhancement of a net sees in an image.

    Args:
        net: Detector in evaluation mode.
        image: Values in [0, 1], (3, H, W).
    """
    found, seen = blocks(net, FGPEM), {}
    parts = [p for m in found for p in (m.bands, m.channel_gate, m.spatial_gate) if p is not None]

    def keep(m: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        seen[m] = out

    with ExitStack() as stack:
        for part in parts:
            stack.callback(part.register_forward_hook(keep).remove)
        net(image[None])
    result = {}
    for m in found:
        low, high = (x[0].float() for x in seen[m.bands])
        maps = {LOW: (low - low.mean((1, 2), keepdim=True)).abs().mean(0), HIGH: high.abs().mean(0)}
        if m.spatial_gate is not None:
            maps[SPATIAL] = seen[m.spatial_gate][0, 0].float()
        channels = None if m.channel_gate is None else seen[m.channel_gate][0].flatten().float().cpu().numpy()
        stride = round(image.shape[-1] / low.shape[-1])
        result[m] = Bands(stride, {name: x.cpu().numpy() for name, x in maps.items()}, channels)
    return result


def ratio(weight: np.ndarray, boxes_xywh_norm: Tensor) -> float:
    """Return the mean of the cells that a box touches over the mean of the others; NaN where there is none of either.

    Args:
        weight: Of each cell, (H, W).
        boxes_xywh_norm: Centre and size as shares of the image, (N, 4).
    """
    mask = in_boxes(weight.shape, boxes_xywh_norm).numpy()
    if mask.all() or not mask.any():
        return float("nan")
    return float(weight[mask].mean() / weight[~mask].mean())


def band_files(evaluation: Evaluation, count: int = IMAGES) -> tuple[dict[str, bytes], list[str]]:
    """Return a picture per image and enhancement, and a table of all, by file name, and what to tell.

    Raises:
        DataError: If the split has no labelled image.
    """
    net: Any = evaluation.net
    suffixes = block_suffixes(net, blocks(net, FGPEM))
    if not suffixes:
        return {}, ["bands: left out, the model splits nothing by frequency"]
    images = dataset({**evaluation.args, "split": evaluation.split}, net)
    net.to(evaluation.device())
    made: dict[str, bytes] = {}
    rows: list[list[object]] = [["image", "row", "map", "stride", "least", "most", "in_boxes_over_elsewhere"]]
    ratios: dict[str, list[float]] = {}
    for i in choose(images.labels, count):
        item = images[i]
        name, boxes = Path(item["im_file"]), item["bboxes"]
        seen = see(net, item["img"].to(evaluation.device()).float() / 255)
        for block, suffix in suffixes:
            bands = seen[block]
            title = f"What frequency enhancement sees{suffix.replace('_', ' ')}: {name.name} ({evaluation.path.name})"
            picture = draw(item["img"].permute(1, 2, 0).numpy(), boxes, bands, title)
            made[f"bands_{name.stem}{suffix}.png"] = picture
            for what, weight in bands.maps.items():
                ratios.setdefault(what, []).append(ratio(weight, boxes))
                numbers = (f"{v:.4f}" for v in (weight.min(), weight.max(), ratios[what][-1]))
                rows.append([str(name), suffix.removeprefix("_"), what, bands.stride, *numbers])
    pictures = len(made)
    made["bands.csv"] = csv_text(rows).encode()
    return made, [f"bands: {sentence(ratios)} ({pictures} pictures)"]


def sentence(ratios: Mapping[str, Sequence[float]]) -> str:
    """Return how much more of each map lies in boxes."""
    known = {what: [r for r in values if np.isfinite(r)] for what, values in ratios.items()}
    parts = [f"{what} {np.mean(values):.2f} times" for what, values in known.items() if values]
    return f"in boxes as much as elsewhere: {', '.join(parts)}" if parts else "no image has cells in and outside boxes"
