"""Load the encoder of a MobileSAM checkpoint into timm's TinyViT: which tensor is which, and whether enough fit.

MobileSAM keeps the layout of the original TinyViT. timm's differs in names, and in where a downsampling belongs: the
original ends a layer with it, timm begins the next stage with it.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.utils import LOGGER

from ultra_dsmoe.errors import WeightsError

PREFIX = "image_encoder."
LEAST_FIT = 0.9  # of the encoder's tensors; below, the file is of another architecture

_CONV = {"c": "conv", "bn": "bn"}  # the parts of a convolution with norm: original name -> timm's
_STEM = {"0": "conv1", "2": "conv2"}  # the original's index in its sequence -> timm's attribute
# What restricted loading raises on truncated or overwritten files, found by overwriting some at random: its unpickler
# trusts the stream to be well-formed.
_DAMAGE = (
    OSError, EOFError, LookupError, ValueError, ArithmeticError, RuntimeError, TypeError, AttributeError,
    AssertionError, MemoryError, struct.error, pickle.UnpicklingError,
)  # fmt: skip
_SAME = r"(attn|mlp)\.(.+)"  # inside attention and MLP both use the same names


@dataclass(frozen=True)
class FitReport:
    """How much of an encoder a checkpoint filled.

    Attributes:
        matched: Number of tensors taken over.
        total: Number of tensors of the encoder.
        left: Names, as timm has them, of the tensors that were not filled.
    """

    matched: int
    total: int
    left: tuple[str, ...]

    def __str__(self) -> str:
        """Return the line for the log."""
        return f"{self.matched} of {self.total} tensors fit"


def timm_key(name: str) -> str | None:
    """Return timm's name of the original TinyViT's tensor ``name``; None where the encoder has no such tensor.

    The classifier (``norm_head``, ``head``), MobileSAM's own ``neck`` and the index tables have no counterpart.
    """
    if m := re.fullmatch(r"patch_embed\.seq\.([02])\.(c|bn)\.(\w+)", name):
        return f"patch_embed.{_STEM[m[1]]}.{_CONV[m[2]]}.{m[3]}"
    if m := re.fullmatch(r"layers\.(\d+)\.downsample\.conv([123])\.(c|bn)\.(\w+)", name):
        return f"stages.{int(m[1]) + 1}.downsample.conv{m[2]}.{_CONV[m[3]]}.{m[4]}"
    if m := re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\.(conv[123]|local_conv)\.(c|bn)\.(\w+)", name):
        return f"stages.{m[1]}.blocks.{m[2]}.{m[3]}.{_CONV[m[4]]}.{m[5]}"
    if name.endswith("attention_bias_idxs"):
        return None
    if m := re.fullmatch(rf"layers\.(\d+)\.blocks\.(\d+)\.{_SAME}", name):
        return f"stages.{m[1]}.blocks.{m[2]}.{m[3]}.{m[4]}"
    return None


def is_mobile_sam_checkpoint(source: str | Path | Mapping[str, Any]) -> bool:
    """Tell whether a file or state dict has an image encoder in the way of SAM checkpoints.

    A file that is missing, damaged or holds more than tensors has none, as far as this tells.
    """
    try:
        state = _state_dict(source)
    except WeightsError:
        return False
    return any(str(name).startswith(PREFIX) for name in state)


def load_mobile_sam(encoder: nn.Module, source: str | Path | Mapping[str, Any]) -> FitReport:
    """Fill an encoder with the ``image_encoder.*`` tensors of a MobileSAM checkpoint and log how many fit.

    Args:
        encoder: A `MobileSAM`; its tensors keep their device and precision.
        source: Path of the checkpoint, ``mobile_sam.pt``, or its state dict.

    Returns:
        What was filled.

    Raises:
        WeightsError: If the file is missing, damaged or holds more than tensors, or if fewer than 90 % of the encoder's
            tensors fit; the encoder is unchanged then.
    """
    state, own = _state_dict(source), encoder.state_dict()
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        key = timm_key(str(name).removeprefix(PREFIX)) if str(name).startswith(PREFIX) else None
        if key in own and isinstance(value, Tensor) and value.shape == own[key].shape:
            found[key] = value
    report = FitReport(len(found), len(own), tuple(sorted(own.keys() - found.keys())))
    shown = source if isinstance(source, (str, Path)) else "state dict"
    if report.matched < LEAST_FIT * report.total:
        expected = f"a MobileSAM checkpoint, of whose '{PREFIX}*' tensors at least {LEAST_FIT:.0%} fit"
        raise WeightsError("pretrained", expected, f"{shown}, of which {report}")
    encoder.load_state_dict(found, strict=False)
    LOGGER.info(f"MobileSAM encoder: {report} from {shown}")
    return report


def _state_dict(source: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state dict of a file, or of a dict that may hold it under ``model``, by restricted loading only."""
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_file():
            raise WeightsError("pretrained", "a MobileSAM checkpoint file", f"{path}, which does not exist")
        try:
            source = torch.load(path, map_location="cpu", weights_only=True)
        except _DAMAGE as error:
            reason = str(error).split("\n", 1)[0][:100] or type(error).__name__
            raise WeightsError("pretrained", "a readable file of tensors", f"{path} ({reason})") from error
    inner = source.get("model") if isinstance(source, Mapping) else None
    state = inner if isinstance(inner, Mapping) else source
    if not isinstance(state, Mapping):
        raise WeightsError("pretrained", "a path or a state dict", type(state).__name__)
    return state
