"""What blocks do when a net is fused: rearrange linear parts, so that inference costs less and computes the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules import Conv
from ultralytics.utils.torch_utils import fuse_conv_and_bn


class LinearFoldMixin:
    """A block with linear parts that `fold` rearranges for inference.

    A folded block has other parameters than a fresh one and is no longer trained, as the host's fused convolutions.
    """

    def fold(self) -> None:
        """Rearrange; a second call does nothing."""
        raise NotImplementedError(f"{type(self).__name__}.fold")


def plain(*convs: Any) -> bool:
    """Whether these are convolutions and nothing else.

    Quantization-aware training replaces them by classes of its own, whose ranges do not fit rearranged weights.
    """
    return all(type(conv) is nn.Conv2d for conv in convs)


def closed(block: Conv) -> Any:
    """Return the convolution of a block with its batch normalisation, if that is still there, folded into it.

    The block is spent: newer hosts fold in place.
    """
    return fuse_conv_and_bn(block.conv, block.bn) if hasattr(block, "bn") else block.conv


@torch.no_grad()
def split_inputs(conv: nn.Conv2d, at: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Return two convolutions, of the first ``at`` input channels and, without bias, of the others.

    Their sum is what the one computes from the concatenated channels.
    """
    parts = []
    for weight, bias in ((conv.weight[:, :at], conv.bias), (conv.weight[:, at:], None)):
        size: Any = conv.kernel_size
        padding: Any = conv.padding
        part: Any = nn.Conv2d(weight.shape[1], len(weight), size, padding=padding, bias=bias is not None).to(weight)
        part.weight.copy_(weight)
        if bias is not None:
            part.bias.copy_(bias)
        parts.append(part.requires_grad_(False))
    return parts[0], parts[1]
