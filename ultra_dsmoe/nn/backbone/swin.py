"""Swin transformer stage: attention in windows that keep still and shift by turns, on a convolutional map."""

from __future__ import annotations

import functools
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

_HEAD_WIDTH = 32  # channels of a head, as in Swin
_MLP_RATIO = 4  # as in Swin
_INIT_STD = 0.02  # of weights and position biases, as in Swin
_BLOCKED = -1e4  # logit of a pair that may not see each other: exp() of it is zero, and fp16 holds it


class SwinBlock(nn.Module):
    """``x = x + WMSA(LN x)``, ``x = x + MLP(LN x)`` with attention inside windows.

    ``WMSA: softmax(q k^T / sqrt(32) + B) v``, B being a learned bias for each head and each offset between two tokens.

    A map whose sides are no multiples of the window is padded at the right and at the bottom, and no token sees the
    padding. On an axis that holds a single window nothing is shifted.

    Source: [TS] Sec. 2, which names windowed attention with relative positions. Ours: all sizes.

    Ours rather than timm's or torchvision's block, tried at 1.0.31 and 0.29: both let tokens attend to the padding,
    which both export as a slice with a negative step, misread by TensorRT 8.6; timm's is built for one map size. Nor
    TinyViT's attention, which MobileSAM has: its biases ignore the offset's sign, and it takes no mask.
    """

    stacked_vectors: ClassVar[dict[str, int]] = {"relative_bias": 2}
    relative_index: Tensor

    def __init__(self, c: int, window: int = 5, shift: int = 0) -> None:
        """Build the block; the arguments are checked by `SwinStage`.

        Args:
            c: Channels, a multiple of 32.
            window: Side of a window, in cells.
            shift: How far the windows are moved to the right and down, in cells, less than ``window``.
        """
        super().__init__()
        self.window, self.shift, self.heads = window, shift, c // _HEAD_WIDTH
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.qkv, self.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.mlp = nn.Sequential(nn.Linear(c, _MLP_RATIO * c), nn.GELU(), nn.Linear(_MLP_RATIO * c, c))
        # Three axes, not two as in Swin: the host's MuSGD makes every matrix orthogonal.
        self.relative_bias = nn.Parameter(torch.empty(self.heads, 2 * window - 1, 2 * window - 1))
        self.register_buffer("relative_index", relative_index(window), persistent=False)
        nn.init.trunc_normal_(self.relative_bias, std=_INIT_STD)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=_INIT_STD)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's shape, (B, H, W, C)."""
        x = x + self.windows(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def windows(self, x: Tensor) -> Tensor:
        """Cut a map (B, H, W, C) into windows, let each attend to itself, and put them together again."""
        h, w, c = int(x.shape[1]), int(x.shape[2]), int(x.shape[3])  # an exported file is for one size
        rows, columns = -(-h // self.window), -(-w // self.window)
        down, right = (self.shift if n > 1 else 0 for n in (rows, columns))
        x = F.pad(x, (0, 0, 0, columns * self.window - w, 0, rows * self.window - h))
        x = torch.roll(x, (-down, -right), (1, 2)) if down or right else x
        x = x.reshape(-1, rows, self.window, columns, self.window, c).transpose(2, 3)
        x = self.attend(x.reshape(-1, self.window**2, c), separated(h, w, self.window, down, right))  # (B L, N, C)
        x = x.reshape(-1, rows, columns, self.window, self.window, c).transpose(2, 3)
        x = x.reshape(-1, rows * self.window, columns * self.window, c)
        x = torch.roll(x, (down, right), (1, 2)) if down or right else x
        return x[:, :h, :w]

    def attend(self, x: Tensor, apart: np.ndarray) -> Tensor:
        """Return what the tokens of each window gather from one another.

        Args:
            x: Tokens, (B L, N, C), the L windows of an image in succession.
            apart: Which pairs may not see each other, (L, N, N).

        Returns:
            Tokens, (B L, N, C).
        """
        n, c = int(x.shape[1]), int(x.shape[2])
        q, k, v = self.qkv(x).reshape(-1, n, 3, self.heads, _HEAD_WIDTH).permute(2, 0, 3, 1, 4).unbind(0)
        logits = q * _HEAD_WIDTH**-0.5 @ k.transpose(-2, -1) + self.relative_bias.flatten(1)[:, self.relative_index]
        if apart.any():
            mask = torch.from_numpy(apart).to(x.device).unsqueeze(1)  # (L, 1, N, N)
            logits = logits.reshape(-1, len(apart), self.heads, n, n).masked_fill(mask, _BLOCKED)
            logits = logits.reshape(-1, self.heads, n, n)
        return self.proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(-1, n, c))


@register
class SwinStage(nn.Module):
    """Swin blocks on a map, every second one with its windows shifted by half a window.

    Source: [TS] Sec. 2; window 5 (which divides the maps of a 640 px image at strides 32 to 128) and two blocks are
    ours. The map is halved by a convolution before the stage, not by merging patches.
    """

    fixed_size = True  # in an exported file: windows, padding and masks are constants of one map size

    def __init__(self, c: int, depth: int = 2, window: int = 5) -> None:
        """Build the stage.

        Args:
            c: Channels, kept.
            depth: Number of blocks.
            window: Side of a window, in cells.

        Raises:
            ConfigError: If ``c`` is no multiple of 32, or another size not a positive integer.
        """
        super().__init__()
        checks.sizes("SwinStage", c=c, depth=depth, window=window)
        if c % _HEAD_WIDTH:
            raise ConfigError("SwinStage c", f"channels that are a multiple of {_HEAD_WIDTH}", c)
        self.blocks = nn.Sequential(*(SwinBlock(c, window, window // 2 if i % 2 else 0) for i in range(depth)))

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[from, 1, SwinStage, [depth, window]]``; the depth is not scaled."""
        (c1,) = ctx.inputs(1)
        return RowPlan([c1, ctx.arg(0, 2), ctx.arg(1, 5)], c1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's shape, (B, C, H, W)."""
        return self.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


def relative_index(window: int) -> Tensor:
    """Return, for each pair of tokens of a window, the place of its offset in the flat bias table, (N, N)."""
    y, x = torch.arange(window).repeat_interleave(window), torch.arange(window).repeat(window)
    dy, dx = (p[:, None] - p[None, :] + window - 1 for p in (y, x))  # of query less key, from 0 on
    return dy * (2 * window - 1) + dx


@functools.lru_cache(maxsize=64)
def separated(h: int, w: int, window: int, down: int, right: int) -> np.ndarray:
    """Return which pairs of tokens share a window and yet may not see each other, (L, N, N).

    They lie at opposite borders of the map, which shifting brings together, or one of them is padding.

    Args:
        h: Height of the map in cells.
        w: Its width.
        window: Side of a window.
        down: How far the windows are moved down.
        right: And to the right.
    """
    regions = []
    for size, shift in ((h, down), (w, right)):
        padded = -(-size // window) * window
        came_from = (np.arange(padded) + shift) % padded
        wrapped = np.arange(padded) >= padded - shift
        regions.append(np.where(came_from >= size, 2, wrapped).reshape(-1, window))
    part = 3 * regions[0][:, None, :, None] + regions[1][None, :, None, :]
    part = part.reshape(-1, window**2)
    return part[:, :, None] != part[:, None, :]
