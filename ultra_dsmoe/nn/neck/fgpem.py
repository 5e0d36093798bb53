"""Frequency-guided perception enhancement (FGPEM): the two bands of a map, weighed by what frequencies it holds."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Conv

from ultra_dsmoe import checks
from ultra_dsmoe.nn.contract import Option
from ultra_dsmoe.nn.knockout import Knockout, Record, constant, hooked
from ultra_dsmoe.nn.neck.band_split import PATCH, SPLIT_OPTIONS, TAU, BandSplit, require_patch, split_options
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register
from ultra_dsmoe.ops import patch_dct

CHANNEL_GATES = ("spectrum", "detail", "mean", "none")
FEATURES = ("both", "low")
_REDUCTION, _MIN_HIDDEN = 16, 8
_SPATIAL_KERNEL = 7


class ChannelGate(nn.Module):
    """Weigh the channels by statistics of their bands: ``sigmoid(W2 ReLU(W1 s))``.

    ``spectrum``  mean magnitude of the coefficients of every frequency u + v, 2 patch - 1 numbers per channel
    ``detail``    mean deviation of the low band from its mean, and mean magnitude of the high band
    ``mean``      mean of the low band, which is the map's own mean, and mean magnitude of the high band
    """

    rings: Tensor
    kernels: Tensor

    def __init__(self, c: int, kind: str, patch: int) -> None:
        """Build the gate for ``c`` channels."""
        super().__init__()
        self.kind, self.patch = kind, patch
        numbers = 2
        if kind == "spectrum":
            ring = patch_dct.frequencies(patch)
            rings = torch.nn.functional.one_hot(ring).float()  # (n * n, 2n - 1)
            self.register_buffer("rings", rings / rings.sum(0), persistent=False)
            kernels = patch_dct.depthwise(patch_dct.dct_kernels(patch), c)
            self.register_buffer("kernels", kernels, persistent=False)
            numbers = rings.shape[1]
        hidden = max(c // _REDUCTION, _MIN_HIDDEN)
        self.mlp = nn.Sequential(nn.Conv2d(numbers * c, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, c, 1))

    def statistics(self, low: Tensor, high: Tensor) -> Tensor:
        """Return the numbers that the gate reads, (B, numbers * C, 1, 1)."""
        if self.kind == "spectrum":
            rings = patch_dct.spectrum(low + high, self.kernels) @ self.rings.to(low.dtype)
            return rings.flatten(1)[..., None, None]
        mean = low.mean((2, 3), keepdim=True)
        first = mean if self.kind == "mean" else (low - mean).abs().mean((2, 3), keepdim=True)
        return torch.cat([first, high.abs().mean((2, 3), keepdim=True)], 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Return a weight per channel in (0, 1), (B, C, 1, 1)."""
        return self.mlp(self.statistics(low, high)).sigmoid()


class SpatialGate(nn.Module):
    """Weigh the positions by the high band around them: ``sigmoid(Conv7x7[mean_c |high|, max_c |high|])``."""

    def __init__(self) -> None:
        """Build the gate."""
        super().__init__()
        self.conv = nn.Conv2d(2, 1, _SPATIAL_KERNEL, padding=_SPATIAL_KERNEL // 2)

    def forward(self, high: Tensor) -> Tensor:
        """Return a weight per position in (0, 1), (B, 1, H, W)."""
        size = high.abs()
        return self.conv(torch.cat([size.mean(1, keepdim=True), size.amax(1, keepdim=True)], 1)).sigmoid()


def _identity(blocks: list[Any], record: Record, seed: int) -> Any:
    return hooked(blocks, lambda m, args, out: args[0])


@register
class FGPEM(nn.Module):
    """Enhance a map by its two bands: ``x + Conv1x1(Concat[DW(low) * channel gate, DW(high) * spatial gate])``.

    DW is a depthwise 3x3 convolution with batch normalisation and SiLU. With ``features: low`` the second part is
    ``DW(x)``, so that the high band enters through the gates alone; in that form it was of no use in trials.

    Source: [GASNet] abstract (FGPEM extracts high- and low-frequency information); the form is our choice.
    """

    options: ClassVar[dict[str, Option]] = {
        **SPLIT_OPTIONS,
        "features": Option("both", lambda argument, value: checks.one_of(argument, value, FEATURES)),
        "channel_gate": Option("spectrum", lambda argument, value: checks.one_of(argument, value, CHANNEL_GATES)),
        "spatial_gate": Option(True, checks.flag),
    }
    knockouts = (
        Knockout("fgpem-off", "frequency enhancement handing its map on", _identity),
        Knockout("channel-gate-constant", "channel gate of the enhancement replaced by its mean", constant,
                 "an FGPEM row with a channel gate", lambda m: m.channel_gate is not None, mean=True,
                 parts=lambda m: [m.channel_gate]),
        Knockout("spatial-gate-constant", "spatial gate of the enhancement replaced by its mean", constant,
                 "an FGPEM row with a spatial gate", lambda m: m.spatial_gate is not None, mean=True,
                 parts=lambda m: [m.spatial_gate]),
    )  # fmt: skip
    fast_parameters: tuple[str, ...] = ()
    channel_gate: ChannelGate | None
    spatial_gate: SpatialGate | None

    def __init__(
        self,
        c: int,
        gain: float | None = None,
        *,
        split: str = "overlap",
        patch: int = PATCH,
        tau: int = TAU,
        features: str = "both",
        channel_gate: str = "spectrum",
        spatial_gate: bool = True,
    ) -> None:
        """Build the block.

        Args:
            c: Channels of the map.
            gain: Standard deviation that what is added starts with; 0 starts as the identity, for pretrained nets.
                None: SiLU behind the last convolution, and a deviation as batch normalisation gives it.
            split: Of `BandSplit`, as are ``patch`` and ``tau``.
            patch: See there.
            tau: See there.
            features: ``both`` bands, or ``low``.
            channel_gate: ``spectrum``, ``detail``, ``mean`` or ``none``, see `ChannelGate`.
            spatial_gate: Whether to have one.

        Raises:
            ConfigError: If a value is something else.
        """
        super().__init__()
        checks.sizes("FGPEM", c=c)
        check_gain("FGPEM gain", gain)
        checks.one_of("FGPEM features", features, FEATURES)
        checks.one_of("FGPEM channel_gate", channel_gate, CHANNEL_GATES)
        checks.flag("FGPEM spatial_gate", spatial_gate)
        self.features = features
        self.bands = BandSplit(c, split, patch, tau)
        self.channel_gate = None if channel_gate == "none" else ChannelGate(c, channel_gate, patch)
        self.spatial_gate = SpatialGate() if spatial_gate else None
        self.low, self.high = Conv(c, c, 3, g=c), Conv(c, c, 3, g=c)
        self.fuse = Conv(2 * c, c, 1, act=gain is None)
        if gain is not None:
            nn.init.constant_(self.fuse.bn.weight, gain)
            self.fast_parameters = () if gain else ("fuse.bn.weight",)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[from, n, FGPEM, [gain]]``; all else stands in the model YAML's section."""
        (c,) = ctx.inputs(1)
        split, patch, tau = split_options(ctx)
        names = ("features", "channel_gate", "spatial_gate")
        kwargs = {"split": split, "patch": patch, "tau": tau, **{name: ctx.option(name) for name in names}}
        return RowPlan([c, ctx.arg(0)], c, kwargs, repeats=ctx.n)

    def forward(self, x: Tensor) -> Tensor:
        """Return the enhanced map, (B, C, H, W).

        Raises:
            ShapeError: In training, if a side of the map is shorter than a patch.
        """
        if self.training:
            require_patch(x, self.bands.patch, "FGPEM")
        low, high = self.bands(x)
        a, b = self.low(low), self.high(high if self.features == "both" else x)
        if self.channel_gate is not None:
            a = a * self.channel_gate(low, high)
        if self.spatial_gate is not None:
            b = b * self.spatial_gate(high)
        return x + self.fuse(torch.cat([a, b], 1))


def check_gain(argument: str, value: Any) -> None:
    """Refuse what is no share to start with.

    Raises:
        ConfigError: If it is neither None nor a number >= 0.
    """
    if value is not None:
        checks.number(argument, value, 0)
