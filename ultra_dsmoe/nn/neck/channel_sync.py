"""Channel synchronisation (CS): all levels weighed by one common descriptor, and what fusion dropped given back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Conv

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.knockout import Knockout, Record, constant, hooked
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

_DESCRIPTOR = 64
_INIT_STD = 0.01  # from zero weights nothing behind them would learn in the first step


def _off(blocks: list[Any], record: Record, seed: int) -> Any:
    return hooked(blocks, lambda m, args, out: list(args[0][: len(out)]))


@register
class ChannelSync(nn.Module):
    """Weigh fused levels Y_l against the levels P_l that they came from: ``g_l Y_l + (1 - g_l) CBS1x1(P_l)``.

    ``g_l = sigmoid(W_l s)`` per channel, with one descriptor for all levels: ``s = ReLU(mean_l V_l GAP(Y_l))``. With
    ``residual``, for nets whose neck is pretrained: ``2 g_l Y_l + 2 (1 - g_l) BN(Conv1x1(P_l))``, which starts as
    Y_l: W_l and the gain of BN start at zero.

    Source: [GASNet] abstract (CS compensates for what fusion loses); the form is our choice.
    """

    knockouts = (
        Knockout("sync-off", "levels not synchronised: CS hands them on", _off),
        Knockout("sync-constant", "descriptor of CS replaced by its mean", constant, mean=True,
                 parts=lambda m: m.excite),
        Knockout("lateral-constant", "what CS gives back replaced by its mean", constant, mean=True,
                 parts=lambda m: m.lateral),
    )  # fmt: skip
    fast_parameters: tuple[str, ...] = ()
    excite: Any  # modules, one per level
    lateral: Any

    def __init__(self, ch: list[int], c_lateral: list[int] | None = None, residual: bool = False) -> None:
        """Build the block.

        Args:
            ch: Channels of the fused levels.
            c_lateral: Channels of the levels that they came from; the same where omitted.
            residual: Whether to start as the fused levels.

        Raises:
            ConfigError: If a size is not a positive integer, or the lists differ in length.
        """
        super().__init__()
        c_lateral = ch if c_lateral is None else c_lateral
        checks.sizes("ChannelSync", ch=ch, c_lateral=c_lateral)
        checks.flag("ChannelSync residual", residual)
        if not isinstance(ch, (list, tuple)) or not isinstance(c_lateral, (list, tuple)) or len(ch) != len(c_lateral):
            raise ConfigError("ChannelSync ch, c_lateral", "two lists of one length", f"{ch}, {c_lateral}")
        self.residual = residual
        self.squeeze = nn.ModuleList(nn.Conv2d(c, _DESCRIPTOR, 1) for c in ch)
        self.excite = nn.ModuleList(nn.Conv2d(_DESCRIPTOR, c, 1) for c in ch)
        pairs = zip(c_lateral, ch, strict=True)
        self.lateral = nn.ModuleList(Conv(c1, c2, 1, act=not residual) for c1, c2 in pairs)
        for excite in self.excite:
            nn.init.normal_(excite.weight, 0.0, 0.0 if residual else _INIT_STD)
            nn.init.zeros_(excite.bias)
        if residual:
            for lateral in self.lateral:
                nn.init.zeros_(lateral.bn.weight)
            levels = range(len(ch))
            names = ("excite.{}.weight", "excite.{}.bias", "lateral.{}.bn.weight")
            self.fast_parameters = tuple(name.format(i) for name in names for i in levels)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[[Y_3, Y_4, ..., P_3, P_4, ...], 1, ChannelSync, [residual]]``: a row of several maps, for `Pick`."""
        channels = ctx.inputs(2, 10)
        if len(channels) % 2:
            raise ConfigError("model YAML row ChannelSync", "'from' with as many fused levels as others", len(channels))
        ch, c_lateral = channels[: len(channels) // 2], channels[len(channels) // 2 :]
        return RowPlan([ch, c_lateral, ctx.arg(0, False)], ch)

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """Return the levels Z_l, (B, C_l, H_l, W_l), from all Y_l and then all P_l, (B, c_lateral_l, H_l, W_l)."""
        n = len(self.squeeze)
        fused, others = x[:n], x[n:]
        descriptors = [v(y.mean((2, 3), keepdim=True)) for v, y in zip(self.squeeze, fused, strict=True)]
        common = torch.stack(descriptors).mean(0).relu()
        levels = []
        for w, conv, y, p in zip(self.excite, self.lateral, fused, others, strict=True):
            gate, given_back = w(common).sigmoid(), conv(p)
            if self.residual:
                gate = 2 * gate
                levels.append(gate * y + (2 - gate) * given_back)
            else:
                levels.append(gate * y + (1 - gate) * given_back)
        return levels
