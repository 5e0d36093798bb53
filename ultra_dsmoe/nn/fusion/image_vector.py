"""The image's vector in the space that it shares with its texts."""

from __future__ import annotations

from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.nn.fusion.text_adapter import WIDTH
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register


@register
class ImageProjection(nn.Module):
    """Bring a map into the shared space: ``linear(mean over the cells)``.

    Source: [PFA] Eq. 2, the image side.
    """

    def __init__(self, c1: int, c2: int = WIDTH) -> None:
        """Build the block.

        Args:
            c1: Channels of the map.
            c2: Width of the shared space.

        Raises:
            ConfigError: If one is no positive integer.
        """
        super().__init__()
        checks.sizes("ImageProjection", c1=c1, c2=c2)
        self.pool, self.linear = nn.AdaptiveAvgPool2d(1), nn.Linear(c1, c2)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[from, 1, ImageProjection, [c2]]``."""
        (c1,) = ctx.inputs(1)
        c2 = checks.whole("ImageProjection c2", ctx.arg(0, WIDTH))
        return RowPlan([c1, c2], c2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the image's vector, (B, C, H, W) -> (B, c2)."""
        return self.linear(self.pool(x).flatten(1))
