"""Add the hub's output to a level of the pyramid, or the experts' output to the map that they were given."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register


@register
class HubInject(nn.Module):
    """Add the resized, projected hub output to a pyramid level: ``X_l' = X_l + BN(Conv1x1(Resize(Y)))``.

    Source: [DSMoE] Eq. 28, 29. Adding to the inputs of an ordinary PAN neck, the batch normalisation and its gain are
    our choice, and so is ``Y = X + BN(Conv1x1(O))`` as the projection of Eq. 28: with O in its place, X is learned
    through the experts only, and later. From scratch a share of 0.2 is right: as large as the level (1), the untrained
    hub hides it and boxes are learned later; a projection without normalisation that starts at zero is not taken up
    (docs/results/log.md). With pretrained weights a gain of 0 is right: the net begins as the YOLO they come from.
    """

    fast_parameters: tuple[str, ...] = ()

    def __init__(self, c_level: int, c_hub: int, scale: float, gain: float = 1.0) -> None:
        """Build the block.

        Args:
            c_level: Channels of the level.
            c_hub: Channels of the hub output.
            scale: Size of the level over the hub's: a power of two from 1/4 to 8.
            gain: Standard deviation that the hub's share starts with; 0 starts without it.

        Raises:
            ConfigError: If a value is something else.
        """
        super().__init__()
        checks.sizes("HubInject", c_level=c_level, c_hub=c_hub)
        if isinstance(scale, bool) or scale not in (0.25, 0.5, 1, 2, 4, 8):  # 2.0 is as good as 2
            raise ConfigError("HubInject scale", "0.25, 0.5, 1, 2, 4 or 8", scale)
        checks.number("HubInject gain", gain, 0)
        self.scale = scale
        self.project = nn.Conv2d(c_hub, c_level, 1, bias=False)
        self.bn = nn.BatchNorm2d(c_level)
        nn.init.constant_(self.bn.weight, gain)
        self.fast_parameters = () if gain else ("bn.weight",)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[[level, hub], 1, HubInject, [scale, gain]]``."""
        c_level, c_hub = ctx.inputs(2)
        return RowPlan([c_level, c_hub, ctx.arg(0, 1)], c_level, {"gain": ctx.arg(1, 1.0)})

    def forward(self, x: list[Tensor]) -> Tensor:
        """Return the enriched level, (B, c_level, H, W), from the level and the hub output."""
        level, hub = x
        if self.scale >= 1:  # project first: fewer positions
            y = self.bn(self.project(hub))
            return level + (F.interpolate(y, scale_factor=float(self.scale)) if self.scale > 1 else y)
        return level + self.bn(self.project(F.max_pool2d(hub, round(1 / self.scale))))
