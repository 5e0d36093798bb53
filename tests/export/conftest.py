"""A net with one gate, and a 'file' of it into which faults can be planted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.export import parity
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate


class Toy(nn.Module):
    """A net with one gate over image means, whose predictions (B, 6, A) have two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = ExpertGate(3, 6, 2)
        self.model = nn.ModuleList([nn.Identity()])
        self.stride = torch.tensor([32.0])
        self.scale = torch.ones(1, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        g = self.gate(x)
        boxes = x.flatten(2)[:, :1, :4] * 100 + torch.arange(4.0).view(1, 4, 1) * 40
        return torch.cat([boxes.expand(-1, 4, -1), g[:, :2, None].expand(-1, -1, 4)], 1) * self.scale


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> tuple[Toy, Callable[[Callable[..., Any]], None]]:
    """Return a net and a function that plants a fault into the runner of its 'file'."""
    net = Toy().eval()

    def plant(fault: Callable[..., Any]) -> None:
        true = parity.torch_runner(net)

        def runner(path: Path, gates: int, before_nms: bool = False) -> Callable[..., Any]:
            if before_nms:
                raise ConfigError("exported file", "one with suppression inside", "none")
            return lambda x: fault(*true(x))

        monkeypatch.setattr(parity, "exported_runner", runner)

    plant(lambda predictions, gates: (predictions, gates))
    return net, plant


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "toy.onnx"
    path.write_bytes(b"-")
    return path
