"""Which experts static execution keeps: those that the images of a data set are sent to most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from ultralytics.utils import LOGGER

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.export.images import channels_of, image_batches
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate

ROOM = 1.5  # kept experts per chosen one; up to here constant weights are faster than gathered ones (docs/edge.md)
BATCH = 8


@dataclass(frozen=True)
class Coverage:
    """What a set of kept experts covers of the routing it was chosen from.

    Attributes:
        kept: Numbers of the kept experts, in order.
        experts: Number of experts N.
        k: Experts per image.
        images: How many images were routed.
        image_share: Share of images whose k experts are all kept; they get what gathered execution gives them.
        mass_share: Share of the gate's weight, over all images, that lies on kept experts.
    """

    kept: tuple[int, ...]
    experts: int
    k: int
    images: int
    image_share: float
    mass_share: float

    def __str__(self) -> str:
        """Return one line for logs."""
        return (
            f"static experts: {len(self.kept)} of {self.experts} kept ({', '.join(map(str, self.kept))}); coverage on "
            f"{self.images} images: {self.image_share:.1%} have all their {self.k} experts kept, "
            f"{self.mass_share:.1%} of the gate's weight is kept"
        )


def default_keep(k: int, experts: int) -> int:
    """Return how many experts are kept where the user does not say: 1.5 k, at most all."""
    return min(experts, math.ceil(ROOM * k))


@torch.no_grad()
def route(net: DSMoEModel, files: Sequence[str], imgsz: tuple[int, int]) -> list[Tensor]:
    """Send images through a net and return the weights that its gates gave, free to choose among all experts.

    Args:
        net: The net; it is not changed.
        files: Image files.
        imgsz: Height and width in pixels.

    Returns:
        One (I, N) per gate, in the order of the rows.
    """
    net = deepcopy(net).float().eval()
    net.set_moe_mode("gather")
    gates = net.blocks(ExpertGate)
    seen: dict[ExpertGate, list[Tensor]] = {gate: [] for gate in gates}
    for gate in gates:
        gate.register_forward_hook(lambda m, _, out: seen[m].append(out.float().cpu()))
    device = next(net.parameters()).device
    for images in image_batches(files, imgsz, channels_of(net), BATCH):
        net(images.to(device))
    return [torch.cat(seen[gate]) for gate in gates]


def choose(weights: Tensor, k: int, keep: int | None = None) -> Coverage:
    """Keep the experts that carry most of the gate's weight; those that no image was sent to are never kept.

    Args:
        weights: Gate weights, zero where an expert was not chosen, (I, N).
        k: Experts per image.
        keep: How many at most; `default_keep` where omitted.

    Raises:
        ConfigError: If fewer than k or more than N shall be kept.
    """
    experts = weights.shape[1]
    keep = default_keep(k, experts) if keep is None else keep
    if not k <= keep <= experts:
        raise ConfigError("dsmoe_keep", f"an integer from {k} (experts per image) to {experts} (all)", keep)
    mass = weights.double().sum(0)
    used = int((mass > 0).sum())
    best = mass.argsort(descending=True, stable=True)[: min(keep, used)]
    kept = tuple(sorted(best.tolist()))
    inside = torch.zeros(experts, dtype=torch.bool)
    inside[list(kept)] = True
    covered = ~((weights > 0) & ~inside).any(1)
    share = float(mass[inside].sum() / mass.sum())
    return Coverage(kept, experts, k, len(weights), float(covered.double().mean()), share)


def static_experts(
    net: DSMoEModel, files: Sequence[str], imgsz: tuple[int, int], keep: int | None = None
) -> list[Coverage]:
    """Choose the experts to keep in every gate of a net and print what they cover.

    Args:
        net: The net, with the text and the number of experts per image that it is going to run with.
        files: Images whose routing decides.
        imgsz: Height and width in pixels.
        keep: How many experts at most per gate; `default_keep` where omitted.

    Returns:
        One per gate, in the order of the rows.

    Raises:
        ConfigError: If the net has no gate, or ``keep`` does not suit one.
    """
    gates = net.blocks(ExpertGate)
    if not gates:
        raise ConfigError("dsmoe_moe", "a model with an ExpertGate for static", "one without")
    for gate in gates:  # before the images: they take a while
        choose(torch.ones(1, gate.experts), gate.k, keep)
    chosen = [choose(w, gate.k, keep) for gate, w in zip(gates, route(net, files, imgsz), strict=True)]
    for coverage in chosen:
        LOGGER.info(str(coverage))
    return chosen
