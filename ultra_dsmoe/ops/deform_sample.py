"""Deformable 3x3 sampling with one GridSample, ready for a constant stride-3 convolution.

The nine samples of a position lie in a 3x3 tile of a map three times as large, so that a plain convolution with
stride 3 consumes them: its weights stay constant (quantisable), and no DeformConv operator is needed. Sampling and
multiplying may also change places, which costs less where the convolution has fewer outputs than inputs.

Where a sample lies is counted in single precision whatever the net computes in: GridSample counts from -1 to 1 over the
map, of which half precision resolves 1/2048, almost half a pixel of a map 1,500 cells wide.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TAPS = 9  # of a 3x3 kernel, row by row


def deform_sample(x: Tensor, offset_px: Tensor, mask: Tensor, dilation: Tensor) -> Tensor:
    """Sample ``x`` at the nine dilated and shifted taps of every position.

    Source: [DSMoE] Eq. 17: Fms(p + r(p) p_j + o_j(p)) m_j(p).

    Args:
        x: Feature map, (B, C, H, W).
        offset_px: Offsets in pixels, first the nine x, then the nine y, (B, 18, H, W).
        mask: Modulation per tap, (B, 9, H, W).
        dilation: Dilation r per position, (B, 1, H, W).

    Returns:
        Samples as tiles, (B, C, 3H, 3W); zero outside the map.
    """
    gx, gy = _positions(offset_px, dilation)
    grid = torch.stack([F.pixel_shuffle(gx, 3)[:, 0], F.pixel_shuffle(gy, 3)[:, 0]], dim=-1)  # (B, 3H, 3W, 2)
    return _sampled(x, grid) * F.pixel_shuffle(mask, 3)


def deform_sum(y: Tensor, offset_px: Tensor, mask: Tensor, dilation: Tensor) -> Tensor:
    """Sample each tap from its own map and add them up: a deformable convolution whose products come first.

    Args:
        y: What each tap's weights make of the feature map, tap by tap, (B, 9 C, H, W).
        offset_px: As for `deform_sample`, and so the others.
        mask: (B, 9, H, W).
        dilation: (B, 1, H, W).

    Returns:
        (B, C, H, W).
    """
    b, channels, h, w = y.shape
    c = channels // TAPS
    grid = torch.stack(_positions(offset_px, dilation), dim=-1).reshape(b * TAPS, h, w, 2)
    sampled = _sampled(y.reshape(b * TAPS, c, h, w), grid) * mask.reshape(b * TAPS, 1, h, w)
    return (y.new_ones(1, TAPS) @ sampled.reshape(b, TAPS, c * h * w)).reshape(b, c, h, w)


def _positions(offset_px: Tensor, dilation: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and y of all taps as GridSample counts them, -1 to 1 over the map, both (B, 9, H, W), never in half."""
    h, w = offset_px.shape[-2:]
    offset_px, dilation = (_cast(t, torch.promote_types(t.dtype, torch.float32)) for t in (offset_px, dilation))
    tap = torch.arange(3, device=offset_px.device, dtype=offset_px.dtype) - 1
    tap_x, tap_y = tap.repeat(3).view(1, TAPS, 1, 1), tap.repeat_interleave(3).view(1, TAPS, 1, 1)
    # Counted in integers: with free axes in the export, TensorRT 8.6 has no range of floating-point numbers.
    col = torch.arange(w, device=offset_px.device).to(offset_px.dtype)
    row = torch.arange(h, device=offset_px.device).to(offset_px.dtype).unsqueeze(-1)
    px = col + dilation * tap_x + offset_px[:, :TAPS]
    py = row + dilation * tap_y + offset_px[:, TAPS:]
    return (2 * px + 1) / w - 1, (2 * py + 1) / h - 1


def _sampled(x: Tensor, grid: Tensor) -> Tensor:
    """Sample in the grid's precision, since both inputs of a GridSample must have one, and return that of ``x``."""
    sampled = F.grid_sample(_cast(x, grid.dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return _cast(sampled, x.dtype)


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``x`` in a precision; where it has that already an export shall show no cast."""
    return x if x.dtype == dtype else x.to(dtype)
