"""The host's box distribution decoder, without a softmax over an axis with strides."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class BoxDistribution(nn.Module):
    """Turn distributions over ``reg_max`` bins into expected distances, as the host's ``DFL`` does.

    The host's softmax runs over an axis with strides, for which ONNX Runtime takes thirteen times as long as for the
    same sum written out (docs/edge.md). The parameter's name and shape stay the host's.

    Source: [TS] Sec. 5 (DFL in place of anchors is our choice there).
    """

    def __init__(self, conv: Any) -> None:
        """Build the decoder.

        Args:
            conv: The host's constant 1x1 convolution, weights 0 to reg_max - 1 in the shape (1, reg_max, 1, 1).
        """
        super().__init__()
        self.conv = conv  # a convolution for its name alone: checkpoints and the host's rules have "dfl.conv.weight"
        self.c1 = conv.in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return the expected distances, (B, 4 reg_max, A) -> (B, 4, A), in bins."""
        b, _, a = x.shape
        bins = x.view(b, 4, self.c1, a)
        weight = (bins - bins.amax(2, keepdim=True)).exp()  # the largest is 1: no overflow in half precision
        sums = self.moments(x) @ weight  # (B, 4, 2, A)
        return sums[:, :, 0] / sums[:, :, 1]

    def moments(self, like: Tensor) -> Tensor:
        """Return the bins' distances and ones, (2, reg_max): what a distribution is weighed and divided by."""
        distances = self.conv.weight.view(1, self.c1).to(like.dtype)
        return torch.cat([distances, torch.ones_like(distances)])
