"""Deformable 3x3 sampling with one GridSample, ready for a constant stride-3 convolution.

The nine samples of a position lie in a 3x3 tile of a map three times as large, so that a plain convolution with
stride 3 consumes them: its weights stay constant (quantisable), and no DeformConv operator is needed.
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
    h, w = x.shape[-2:]
    tap = torch.arange(3, device=x.device, dtype=offset_px.dtype) - 1
    tap_x, tap_y = tap.repeat(3).view(1, TAPS, 1, 1), tap.repeat_interleave(3).view(1, TAPS, 1, 1)
    # Counted in integers: with free axes in the export, TensorRT 8.6 has no range of floating-point numbers.
    col = torch.arange(w, device=x.device).to(offset_px.dtype)
    row = torch.arange(h, device=x.device).to(offset_px.dtype).unsqueeze(-1)
    px = col + dilation * tap_x + offset_px[:, :TAPS]  # (B, 9, H, W)
    py = row + dilation * tap_y + offset_px[:, TAPS:]
    grid = torch.stack(
        [F.pixel_shuffle((2 * px + 1) / w - 1, 3)[:, 0], F.pixel_shuffle((2 * py + 1) / h - 1, 3)[:, 0]], dim=-1
    )  # (B, 3H, 3W, 2)
    sampled = F.grid_sample(x, grid.to(x.dtype), mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled * F.pixel_shuffle(mask, 3)
