"""Take one map out of a row that returns several."""

from __future__ import annotations

from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register


@register
class Pick(nn.Module):
    """Return one entry of a list of maps, so that the host's own rows can read it.

    The host's ``Index`` does the same, but has to be told the scaled number of channels.
    """

    def __init__(self, index: int = 0) -> None:
        """Build the block.

        Args:
            index: Which entry, counted from zero.

        Raises:
            ConfigError: If it is no whole number from 0 on.
        """
        super().__init__()
        checks.whole("Pick index", index, low=0)
        self.index = index

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[from, 1, Pick, [index]]``.

        Raises:
            ConfigError: If the row read is not one that returns a list, or has fewer entries.
        """
        index = ctx.arg(0, 0)
        channels = ctx.c1
        if not isinstance(channels, list) or not all(isinstance(c, int) for c in channels):
            raise ConfigError("model YAML row Pick", "'from' with one row that returns a list of maps", f"{channels}")
        if not checks.is_whole(index, 0, len(channels) - 1):
            raise ConfigError("model YAML row Pick", f"an index from 0 to {len(channels) - 1}", index)
        return RowPlan([index], channels[index])

    def forward(self, x: list[Tensor]) -> Tensor:
        """Return ``x[index]``, (B, C, H, W)."""
        return x[self.index]
