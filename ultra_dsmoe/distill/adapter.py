"""The adapter f between a student's map and its teacher's; trained with the student, in no exported file."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Adapter(nn.Module):
    """A 1x1 convolution from the student's to the teacher's channels, and a resize where the sizes differ.

    Starts at the identity where the channels are equal, so equal nets start at no difference.

    Source: [TS], whose text asks for equal dimensions; the form is ours.
    """

    def __init__(self, c_student: int, c_teacher: int) -> None:
        """Build the adapter for maps of ``c_student`` and ``c_teacher`` channels."""
        super().__init__()
        self.conv = nn.Conv2d(c_student, c_teacher, 1)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]  # a convolution with bias
        if c_student == c_teacher:
            nn.init.dirac_(self.conv.weight)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the student's map (B, C_S, H, W) as (B, C_T, *size)."""
        y = self.conv(x)
        return y if y.shape[-2:] == tuple(size) else F.interpolate(y, size, mode="bilinear", align_corners=False)
