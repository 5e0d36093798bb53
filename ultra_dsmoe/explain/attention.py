"""Where the attention of a net looks: how much neck and class branches weigh each cell of an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ultra_dsmoe.distill import foreground_mask
from ultra_dsmoe.evaluate.evaluation import Evaluation
from ultra_dsmoe.evaluate.text_table import csv_text
from ultra_dsmoe.explain.distill_masks import dataset
from ultra_dsmoe.explain.plots.attention import draw
from ultra_dsmoe.explain.record import blocks, head_attentions
from ultra_dsmoe.model.neck_maps import feeding_rows
from ultra_dsmoe.nn.attention.kinds import KINDS, MapAttention

IMAGES = 3
NECK, CLASSES = "neck", "classes"
_FLAT = 0.01  # of the weights' mean: what varies by less is the same everywhere, as a fresh attention is


class LevelAttention(NamedTuple):
    """What an attention weighs the cells of an image by.

    Attributes:
        place: ``neck`` or ``classes``, the class branch of the head.
        stride: Pixels per cell.
        weight: Mean over the channels, (H, W); as a share of its own mean, so that 1 is neither more nor less.
        inside: Mean of the cells that a box touches; NaN where there is none.
        outside: Mean of the others.
    """

    place: str
    stride: int
    weight: np.ndarray
    inside: float
    outside: float


def attentions(net: Any) -> dict[MapAttention, tuple[str, int]]:
    """Return the attentions that a detector's levels pass: those that end a neck row, and those of class branches.

    Returns:
        Place and stride of each, neck first, finest level first.
    """
    head = net.model[-1]
    strides = [int(s) for s in head.stride.tolist()]
    found: dict[MapAttention, tuple[str, int]] = {}
    for row, stride in zip(feeding_rows(net), strides, strict=False):
        if ends := [m for kind in KINDS for m in blocks(row, kind)]:
            found[ends[-1]] = (NECK, stride)
    for i, attention in enumerate(head_attentions(net)):  # one-to-many before one-to-one branches
        found[attention] = (CLASSES, strides[i % len(strides)])
    return found


@contextmanager
def watching(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Keep the weights that attentions give while the block runs, (B, C, H, W)."""
    seen: dict[nn.Module, Tensor] = {}

    def keep(m: Any, args: tuple[Tensor, ...], _out: Tensor) -> None:
        seen[m] = m.weight(args[0])

    with ExitStack() as stack:
        for m in modules:
            stack.callback(m.register_forward_hook(keep).remove)
        yield seen


@torch.no_grad()
def level_attentions(net: Any, image: Tensor, boxes_xywh_norm: Tensor) -> list[LevelAttention]:
    """Return what every attention of a net looks at in an image.

    Args:
        net: Detector in evaluation mode.
        image: Values in [0, 1], (3, H, W).
        boxes_xywh_norm: Its boxes, centre and size as shares of the image, (N, 4).
    """
    places = attentions(net)
    with watching(list(places)) as seen:
        net(image[None])
    # Of a head with two class branches per level the later one predicts.
    found: dict[tuple[str, int], LevelAttention] = {}
    for attention, (place, stride) in places.items():
        if attention not in seen:
            continue
        weight = seen[attention].float().mean((0, 1)).cpu()
        weight = weight / weight.mean()
        mask = in_boxes(weight.shape, boxes_xywh_norm)
        inside, outside = (float(weight[part].mean()) for part in (mask, ~mask))  # of nothing: NaN
        found[place, stride] = LevelAttention(place, stride, weight.numpy(), inside, outside)
    return list(found.values())


def in_boxes(shape: Sequence[int], boxes_xywh_norm: Tensor) -> Tensor:
    """Return which cells of a map a box touches, (H, W) of True and False on the CPU.

    Args:
        shape: H and W.
        boxes_xywh_norm: Centre and size as shares of the image, (N, 4).
    """
    height, width = shape
    return foreground_mask(boxes_xywh_norm.cpu(), torch.zeros(len(boxes_xywh_norm)), 1, (height, width))[0, 0] > 0


def choose(labels: Sequence[dict[str, Any]], count: int) -> list[int]:
    """Return images to show: every class in its turn, and of its images those with the most boxes of it first.

    Args:
        labels: The host's labels, with ``cls``, (N, 1).
        count: How many at most.
    """
    boxes = [Counter(int(c) for c in label["cls"].flatten()) for label in labels]
    queues = [
        sorted((i for i, n in enumerate(boxes) if n[kind]), key=lambda i: -boxes[i][kind])
        for kind in sorted({kind for n in boxes for kind in n})
    ]
    rounds = [queue[n] for n in range(max(map(len, queues))) for queue in queues if n < len(queue)]
    return list(dict.fromkeys(rounds))[:count]


def attention_files(evaluation: Evaluation, count: int = IMAGES) -> tuple[dict[str, bytes], list[str]]:
    """Return a picture per image and a table of all, by file name, and what to tell.

    Raises:
        DataError: If the split has no labelled image.
    """
    net: Any = evaluation.net
    if not attentions(net):
        return {}, ["attention: left out, the model has none in neck and class branches"]
    images = dataset({**evaluation.args, "split": evaluation.split}, net)
    net.to(evaluation.device())
    made: dict[str, bytes] = {}
    rows: list[list[object]] = [["image", "place", "stride", "least", "most", "in_boxes", "elsewhere"]]
    every: list[LevelAttention] = []
    for i in choose(images.labels, count):
        item = images[i]
        name, boxes = Path(item["im_file"]), item["bboxes"]
        looks = level_attentions(net, item["img"].to(evaluation.device()).float() / 255, boxes)
        title = f"Where the attention looks: {name.name} ({evaluation.path.name})"
        made[f"attention_{name.stem}.png"] = draw(item["img"].permute(1, 2, 0).numpy(), boxes, looks, title)
        for x in looks:
            numbers = (f"{v:.4f}" for v in (x.weight.min(), x.weight.max(), x.inside, x.outside))
            rows.append([str(name), x.place, x.stride, *numbers])
        every += looks
    made["attention.csv"] = csv_text(rows).encode()
    return made, [f"attention: {sentence(every)} ({len(made) - 1} images)"]


def sentence(looks: Sequence[LevelAttention]) -> str:
    """Return how much more the cells of boxes weigh than the others, for neck and class branches."""
    parts = []
    for place, who in ((NECK, "the neck weighs"), (CLASSES, "class branches weigh")):
        mine = [x for x in looks if x.place == place]
        if not mine:
            continue
        ratios = [x.inside / x.outside for x in mine if np.isfinite(x.inside + x.outside)]
        if max(np.ptp(x.weight) for x in mine) < _FLAT:
            parts.append(f"{who} all cells alike")
        elif ratios:
            parts.append(f"{who} cells in boxes {np.mean(ratios):.2f} times as much as others")
        else:
            parts.append(f"{who} cells by {min(x.weight.min() for x in mine):.2f} to "
                         f"{max(x.weight.max() for x in mine):.2f} of their mean")  # fmt: skip
    return ", ".join(parts)
