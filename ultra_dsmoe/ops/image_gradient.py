"""Spatial derivatives of feature maps by central and forward differences."""

from __future__ import annotations

import torch
from torch import Tensor

_EPS = 1e-6  # under the square root, so that flat areas have a finite gradient


def central_difference(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (d/dx, d/dy) of maps (B, C, H, W) with the kernel [-.5, 0, .5]; borders repeat their last pixel."""
    return _differences(x / 2)


def gradient_magnitude(x: Tensor) -> Tensor:
    """Return the gradient magnitude of the channel mean, (B, C, H, W) -> (B, 1, H, W); exactly 0 where it is flat.

    Source: [DSMoE] Eq. 5 (the mean over channels is our choice: per channel it was memory-bound).
    """
    dx, dy = _differences(_half_channel_mean(x))
    return torch.sqrt(dx * dx + dy * dy + _EPS) - _EPS**0.5


def _differences(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return right minus left and lower minus upper neighbour; borders repeat their last pixel."""
    wide = torch.cat([x[..., :1], x, x[..., -1:]], dim=-1)
    tall = torch.cat([x[..., :1, :], x, x[..., -1:, :]], dim=-2)
    return wide[..., 2:] - wide[..., :-2], tall[..., 2:, :] - tall[..., :-2, :]


def _half_channel_mean(x: Tensor) -> Tensor:
    """Return half the mean over channels as a product, (B, C, H, W) -> (B, 1, H, W): ReduceMean is slow there."""
    b, c, h, w = x.shape
    return (x.new_full((1, c), 0.5 / c) @ x.flatten(2)).reshape(b, 1, h, w)


def forward_difference(x: Tensor) -> Tensor:
    """Return both forward differences stacked on channels, (B, C, H, W) -> (B, 2C, H-1, W-1)."""
    return torch.cat([x[..., :-1, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, :-1]], dim=1)
