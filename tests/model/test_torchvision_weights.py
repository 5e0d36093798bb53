"""torchvision's weights for an encoder of its own: which names they are, a file, what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from ultralytics.nn.modules import TorchVision

from ultra_dsmoe.errors import WeightsError
from ultra_dsmoe.model import torchvision_weights


class Net(nn.Module):
    """A net with torchvision's smallest ResNet as its encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = TorchVision("resnet18", weights=None, unwrap=True, truncate=2)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("resnet50-11ad3fa6.pth", "resnet50-11ad3fa6.pth"),
        ("ResNet50_Weights.IMAGENET1K_V2", "ResNet50_Weights.IMAGENET1K_V2"),
        ("yolov8n.pt", None),
        (True, None),
        (None, None),
    ],
)
def test_what_is_torchvisions(given: Any, name: str | None) -> None:
    assert torchvision_weights.named(given) == name


def test_a_file_of_theirs_goes_into_the_encoder(tmp_path: Path) -> None:
    source = resnet18().eval()
    torch.save(source.state_dict(), tmp_path / "r.pth")
    net = Net().eval()
    torchvision_weights.load(net, str(tmp_path / "r.pth"))
    x = torch.rand(1, 3, 64, 64)
    theirs = nn.Sequential(*list(source.children())[:-2])(x)
    assert torch.equal(net.encoder(x), theirs)


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "r.pth")
    with pytest.raises(WeightsError, match=r"pretrained: expected torchvision's weights of this model's encoder"):
        torchvision_weights.load(Net(), str(tmp_path / "r.pth"))
    (tmp_path / "r.pth").write_bytes(b"none")
    with pytest.raises(WeightsError, match="pretrained: expected"):
        torchvision_weights.load(Net(), str(tmp_path / "r.pth"))
    with pytest.raises(WeightsError, match=r"pretrained: expected an existing checkpoint, got no\.pth"):
        torchvision_weights.check(Net(), "no.pth")
    with pytest.raises(WeightsError, match="expected a model with a TorchVision row"):
        torchvision_weights.check(nn.Identity(), "r.pth")
    with pytest.raises(WeightsError, match="pretrained: expected"):
        torchvision_weights.load(Net(), "ResNet18_Weights.NONE_SUCH")
