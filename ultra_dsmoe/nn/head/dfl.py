"""The host's box distribution decoder, with its bins side by side in memory."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class BoxDistribution(nn.Module):
    """Turn distributions over ``reg_max`` bins into expected distances, as the host's ``DFL`` does.

    The host's softmax runs over an axis with strides; in ONNX Runtime that takes five times as long as over the last
    axis (docs/edge.md). Nothing else differs, neither what is computed nor the parameter's name and shape.

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
        prob = x.view(b, 4, self.c1, a).transpose(2, 3).softmax(-1)  # (B, 4, A, reg_max)
        return (prob @ self.conv.weight.view(self.c1, 1)).view(b, 4, a)
