"""The attention M that teacher and student are compared by, and the mask A that it gives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ultra_dsmoe.nn.attention.kinds import KINDS, MapAttention

Attention = Callable[[Tensor], Tensor]  # M: (B, C, H, W) -> (B, C, H, W)

_EPS = 1e-20  # of a map's mean: an all-zero map gets an all-zero weight


class ActivationAttention:
    """Attention of a teacher that has none of its own: where, and in which channels, a map is large.

    The weight is the mean of |F| over the channels plus its mean over the cells, each divided by the mean over both:
    two parts of mean 1, as twice those of a `DualAttention` at its start, whatever the scale of the map. No parameters,
    so a student cannot make the comparison easier.

    Source: ours, in place of [TS] Eq. 2-4 for teachers that lack them.
    """

    def weight(self, x: Tensor) -> Tensor:
        """Return the weight >= 0 with mean 2, (B, C, H, W), in fp32."""
        size = x.float().abs()
        mean = size.mean((1, 2, 3), keepdim=True).clamp_min(_EPS)
        return (size.mean(1, keepdim=True) + size.mean((2, 3), keepdim=True)) / mean

    def attended(self, x: Tensor) -> Tensor:
        """Return M(F), the map times its weight, (B, C, H, W), in fp32."""
        return self.weight(x) * x.float()  # [TS] Eq. 9


def neck_attention(row: nn.Module, channels: int) -> MapAttention | None:
    """Return the dual attention or CBAM that a neck row ends in, None where it has none of its output's width.

    Args:
        row: The row that feeds a detector: an attention itself, or a block that holds one.
        channels: Channels of the row's output.
    """
    found = [m for m in row.modules() if isinstance(m, KINDS)]
    return found[-1] if found and found[-1].channels == channels else None


def attention_mask(attention: Tensor, temperature: float) -> Tensor:
    """Return A = softmax(M / T) over the cells of each channel, times H W: weights of mean 1.

    Source: [TS] Eq. 10. Ours: the softmax's domain and the factor; over C H W the weights would be about 1 / CHW and
    the terms that use them vanish.

    Args:
        attention: M(F), (B, C, H, W).
        temperature: T > 0; the larger, the gentler the mask.
    """
    cells = attention.shape[-2] * attention.shape[-1]
    return (torch.softmax(attention.flatten(2) / temperature, -1) * cells).view_as(attention)  # [TS] Eq. 10
