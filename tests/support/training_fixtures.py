"""Small nets and batches for the training side."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from ultralytics.cfg import get_cfg

from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.registry import LAYERS

SIZE = 64


@pytest.fixture
def no_trace() -> Iterator[None]:
    """Leave the registry as it was."""
    before = dict(LAYERS)
    yield
    LAYERS.clear()
    LAYERS.update(before)


@pytest.fixture
def build() -> Callable[..., DSMoEModel]:
    """Return a function that builds a net with the host's default training arguments."""

    def make(name: str = "dsmoe-n", nc: int = 6) -> DSMoEModel:
        net = DSMoEModel(f"{name}.yaml", nc=nc, verbose=False)
        net.args = get_cfg()
        return net

    return make


@pytest.fixture
def batch() -> Callable[..., dict[str, Tensor]]:
    """Return a function that makes a batch of noise with boxes."""

    def make(images: int = 2, boxes: int = 2, nc: int = 6, size: int = SIZE) -> dict[str, Tensor]:
        total = images * boxes
        centre = 0.3 + 0.4 * torch.rand(total, 2)
        extent = 0.2 + 0.3 * torch.rand(total, 2)
        return {
            "img": torch.rand(images, 3, size, size),
            "cls": torch.randint(nc, (total, 1)).float(),
            "bboxes": torch.cat([centre, extent], 1),
            "batch_idx": torch.arange(images).repeat_interleave(boxes).float(),
        }

    return make
