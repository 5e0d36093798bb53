"""Allocation: the gathered map handed back to a level of the pyramid, by a gate and an added share."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from ultralytics.nn.modules import C2f, Conv

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.contract import Option
from ultra_dsmoe.nn.knockout import Knockout, constant
from ultra_dsmoe.nn.neck.fgpem import check_gain
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

SCALES = (0.25, 0.5, 1, 2, 4)


@register
class Allocate(nn.Module):
    """Hand the gathered map G back to a level P, with ``a`` and ``e`` as projections of G brought to its size.

    Without ``gain``: ``C2f(CBS1x1(P) sigmoid(a) + e)``. With it, for nets whose neck is pretrained:
    ``2 sigmoid(a) P + e``, where ``a`` starts at zero and ``e`` with that standard deviation, so that 0 starts as P.

    Source: [GASNet] abstract (gathering and allocation); gate and injection as in gather-and-distribute necks are our
    choice, so is projecting before resizing, which is the same and cheaper.
    """

    options: ClassVar[dict[str, Option]] = {"allocation_gate": Option(True, checks.flag)}
    knockouts = (
        Knockout("injection-constant", "what allocation adds to a level replaced by its mean", constant,
                 mean=True, parts=lambda m: [m.inject]),
        Knockout("allocation-gate-constant", "gate of the allocation replaced by its mean", constant,
                 "an Allocate row with a gate", lambda m: m.gate is not None, mean=True, parts=lambda m: [m.gate]),
    )  # fmt: skip
    fast_parameters: tuple[str, ...] = ()
    gate: nn.Conv2d | None

    def __init__(
        self, c_level: int, c_hub: int, scale: float, gain: float | None = None, *, gated: bool = True
    ) -> None:
        """Build the block.

        Args:
            c_level: Channels of the level.
            c_hub: Channels of the gathered map.
            scale: Size of the level over that map's: 1/4 to 4.
            gain: Standard deviation that the added share starts with; None for the first form.
            gated: Whether to weigh the level.

        Raises:
            ConfigError: If a value is something else.
        """
        super().__init__()
        checks.sizes("Allocate", c_level=c_level, c_hub=c_hub)
        if isinstance(scale, bool) or scale not in SCALES:
            raise ConfigError("Allocate scale", "0.25, 0.5, 1, 2 or 4", scale)
        check_gain("Allocate gain", gain)
        checks.flag("Allocate gated", gated)
        self.scale, self.residual = scale, gain is not None
        self.inject: Any = Conv(c_hub, c_level, 1, act=False)
        self.gate = nn.Conv2d(c_hub, c_level, 1) if gated else None
        if gain is None:
            self.level, self.refine = Conv(c_level, c_level, 1), C2f(c_level, c_level, 1)
            return
        nn.init.constant_(self.inject.bn.weight, gain)
        fast = () if gain else ("inject.bn.weight",)
        if self.gate is not None:
            for parameter in self.gate.parameters():
                nn.init.zeros_(parameter)
            fast = (*fast, "gate.weight", "gate.bias")
        self.fast_parameters = fast

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[[level, gathered], 1, Allocate, [scale, gain]]``."""
        c_level, c_hub = ctx.inputs(2)
        return RowPlan([c_level, c_hub, ctx.arg(0, 1), ctx.arg(1)], c_level, {"gated": ctx.option("allocation_gate")})

    def forward(self, x: list[Tensor]) -> Tensor:
        """Return the level with its share, (B, c_level, H, W), from the level and the gathered map."""
        level, hub = x
        added = self.resized(self.inject(hub))
        if not self.residual:
            level = self.level(level)
        if self.gate is not None:
            weight = self.resized(self.gate(hub)).sigmoid()
            level = level * (2 * weight if self.residual else weight)
        return level + added if self.residual else self.refine(level + added)

    def resized(self, x: Tensor) -> Tensor:
        """Bring a map of the gathered size to the level's."""
        if self.scale > 1:
            return F.interpolate(x, scale_factor=float(self.scale), mode="bilinear", align_corners=False)
        return F.avg_pool2d(x, round(1 / self.scale)) if self.scale < 1 else x
