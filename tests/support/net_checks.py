"""What several tests of the detector do with a net."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.text import encode_bank

NAMES = {0: "scratch", 1: "dent", 2: "stain"}


def run(net: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return net.eval()(images)[0]


def hub(net: DSMoEModel, images: Tensor) -> Tensor:
    """Return the output of the ten stages, which a fresh net's predictions do not show yet."""
    seen: list[Tensor] = []
    with torch.no_grad():
        handle = net.eval().model[21].register_forward_hook(lambda _m, _x, y: seen.append(y))
        net(images)
        handle.remove()
    return seen[0]


def described(net: DSMoEModel) -> DSMoEModel:
    net.names = NAMES
    net.set_text(encode_bank(NAMES, {"dent": ["a round hollow"]}, encoder="hash"))
    return net
