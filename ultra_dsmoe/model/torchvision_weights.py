"""torchvision's own weights for a net whose image encoder is a row ``TorchVision``."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules import TorchVision

from ultra_dsmoe.errors import WeightsError

SUFFIX = ".pth"
_DAMAGED = (OSError, RuntimeError, ValueError, LookupError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile)


def named(given: Any) -> str | None:
    """Return what ``pretrained`` names where that is a file of torchvision's, or weights of its by name, else None."""
    text = str(given).strip() if isinstance(given, (str, Path)) else ""
    return text if text.endswith(SUFFIX) or "_Weights." in text else None


def check(net: nn.Module, name: str) -> None:
    """Refuse weights that are not there, or a net without such an encoder.

    Raises:
        WeightsError: If they cannot be loaded.
    """
    _row(net, name)
    if name.endswith(SUFFIX) and not Path(name).is_file():
        raise WeightsError("pretrained", "an existing checkpoint", name)


def load(net: nn.Module, name: str) -> None:
    """Load torchvision's weights into a net's encoder.

    Args:
        net: With a row ``TorchVision``.
        name: A file, or such as ``ResNet50_Weights.IMAGENET1K_V2``, which torchvision fetches unless it has them.

    Raises:
        WeightsError: If they are not there, or are another architecture's.
    """
    from torchvision.models import get_weight

    row, expected = _row(net, name), "torchvision's weights of this model's encoder"
    try:
        if name.endswith(SUFFIX):
            state = torch.load(name, map_location="cpu", weights_only=True)
        else:
            state = get_weight(name).get_state_dict(check_hash=True)
    except _DAMAGED as e:  # no network is an OSError, an unknown name a ValueError
        raise WeightsError("pretrained", expected, f"{name} ({str(e).partition(chr(10))[0]})") from e
    own = row.m.state_dict()  # numbers of its parts in place of torchvision's names, in the same order
    theirs = [value for key, value in state.items() if not key.startswith(("fc.", "classifier.", "head."))]
    counters = [key for key in own if key.endswith("num_batches_tracked")]
    keys = [key for key in own if key not in counters] if len(theirs) != len(own) else list(own)
    if len(keys) != len(theirs) or any(own[k].shape != v.shape for k, v in zip(keys, theirs, strict=True)):
        raise WeightsError("pretrained", expected, f"{name}, whose tensors have other shapes")
    row.m.load_state_dict(dict(zip(keys, theirs, strict=True)), strict=False)


def _row(net: nn.Module, name: str) -> Any:
    """Return the row of torchvision's."""
    for m in net.modules():
        if isinstance(m, TorchVision):
            return m
    raise WeightsError("pretrained", "a model with a TorchVision row for torchvision's weights", name)
