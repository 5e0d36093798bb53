"""What the gate of the fusion attends with: texts over the cells of the map, or the paper's channels of vectors."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ultra_dsmoe.nn.base import autocast_off


class Norm(nn.LayerNorm):
    """Layer normalisation in fp32 in whatever precision the net runs."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised vectors, (..., C), in their own type."""
        with autocast_off(x):
            weight, bias = self.weight.float(), self.bias.float()
            return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class CellAttention(nn.Module):
    """Let texts look at a map: ``q + softmax(Wq q (Wk x)^T / sqrt(r)) Wv x`` per head, x being its normalised cells.

    The weights start such that logits have a deviation of about 1: with torch's usual start the attention is a mean
    over the cells, whatever the text says.

    Source: our choice in place of [PFA] Eq. 6, 7, whose attention starts as the mean of its values on vectors.
    """

    def __init__(self, c_map: int, c: int, heads: int) -> None:
        """Build the block.

        Args:
            c_map: Channels of the map.
            c: Width of the texts, a multiple of ``heads``.
            heads: Number of heads.
        """
        super().__init__()
        self.heads, self.r = heads, c // heads
        self.norm = Norm(c_map)
        self.query, self.key, self.value = nn.Linear(c, c), nn.Linear(c_map, c), nn.Linear(c_map, c)
        self.softmax = nn.Softmax(-1)
        for linear in (self.query, self.key, self.value):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, texts: Tensor) -> Tensor:
        """Return the texts with what they see added, (B, T, c).

        Args:
            x: Map, (B, C, H, W).
            texts: Normalised texts, (B, T, c).
        """
        cells = self.norm(x.flatten(2).transpose(1, 2))  # (B, N, C)
        q, k, v = (self._split(p) for p in (self.query(texts), self.key(cells), self.value(cells)))
        with autocast_off(x):
            weight = self.softmax(q.float() @ k.float().transpose(-1, -2) / math.sqrt(self.r))  # (B, heads, T, N)
        return texts + (weight.to(v.dtype) @ v).transpose(1, 2).flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        """Split into heads, (B, T, c) -> (B, heads, T, r)."""
        return x.unflatten(-1, (self.heads, self.r)).transpose(1, 2)


class ChannelAttention(nn.Module):
    """Attend over the channels of vectors, as written: ``softmax(Q K^T / sqrt(r)) V`` per head.

    Q, K and V of a head are columns of r numbers, so Q K^T is their outer product. With features of deviation 1 and
    fresh weights its softmax is all but uniform: 99.8 % of what comes out is the mean of V, and neither text has a say
    until training has made the projections large.

    Source: [PFA] Eq. 6, 7. One 1x1 projection, which is a linear layer on vectors, in place of "multiple stages".
    """

    def __init__(self, c: int, heads: int) -> None:
        """Build the block.

        Args:
            c: Width of the vectors, a multiple of ``heads``.
            heads: Number of heads.
        """
        super().__init__()
        self.heads, self.r = heads, c // heads
        self.query, self.key, self.value = nn.Linear(c, c), nn.Linear(c, c), nn.Linear(c, c)
        self.softmax = nn.Softmax(-1)

    def forward(self, vlm: Tensor, llm: Tensor, image: Tensor) -> Tensor:
        """Return C, (B, c), of three vectors (B, c)."""
        q, k, v = (
            p.unflatten(-1, (self.heads, self.r)).unsqueeze(-1)  # (B, heads, r, 1)
            for p in (self.query(vlm), self.key(llm), self.value(image))
        )
        with autocast_off(vlm):
            weight = self.softmax(q.float() @ k.float().transpose(-1, -2) / math.sqrt(self.r))  # (B, heads, r, r)
        return (weight.to(v.dtype) @ v).flatten(1)
