"""Split of a map into a low and a high frequency band that add up to it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ShapeError
from ultra_dsmoe.nn.contract import Option
from ultra_dsmoe.nn.folding import LinearFoldMixin
from ultra_dsmoe.nn.knockout import Knockout, Record, Switch, hooked
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register
from ultra_dsmoe.ops import patch_dct

SPLITS = ("overlap", "patch", "learned")
PATCH, TAU = 4, 2
_SOFT = 2.0  # logit of what belongs to the band at the start of a learned split: shares of .88 and .12


def check_patch(argument: str, value: Any) -> None:
    """Refuse a patch that has no two bands, or that is larger than any map of the neck should be cut in."""
    checks.whole(argument, value, 2, 16)


def check_tau(argument: str, value: Any, patch: int) -> None:
    """Refuse a bound that leaves one of the bands of a patch empty."""
    high = 2 * patch - 2
    checks.whole(argument, value, 1, high, expected=f"a whole number from 1 to {high} for patches of {patch}")


SPLIT_OPTIONS: dict[str, Option] = {
    "split": Option("overlap", lambda argument, value: checks.one_of(argument, value, SPLITS)),
    "patch": Option(PATCH, check_patch),
    "tau": Option(TAU, checks.whole),  # of its patch, see `split_options`
}


def _bands(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Switch:
    """Return a switch that changes what a split returns."""

    def switch(blocks: list[Any], record: Record, seed: int) -> AbstractContextManager[None]:
        return hooked(blocks, lambda m, args, out: list(change(*out)))

    return switch


@register
class BandSplit(LinearFoldMixin, nn.Module):
    """Return the low and the high band of a map: ``low = P(x)``, ``high = x - low``; see `ultra_dsmoe.ops.patch_dct`.

    A constant map has no high band. With ``split``:

    ``overlap``  patches start at every cell: one convolution, which moves with the image.
    ``patch``    patches lie side by side: an orthogonal projection, which does not: moved by half a patch, half of the
                 low band of a smooth random map changes. Has one size in an exported file.
    ``learned``  as ``overlap``, with the share of every coefficient in the low band learned per channel.

    Source: [GASNet] abstract (a "PDCT" filter that separates high and low frequencies); the rest is our choice.
    """

    options: ClassVar[dict[str, Option]] = SPLIT_OPTIONS
    fast_parameters = ("shares",)
    stacked_vectors: ClassVar[dict[str, int]] = {"shares": 1}  # one of each channel
    knockouts = (
        Knockout("bands-merged", "low band replaced by the whole map, high band by zero", _bands(
            lambda low, high: (low + high, torch.zeros_like(high)))),
        Knockout("low-zero", "low band set to zero", _bands(lambda low, high: (torch.zeros_like(low), high))),
        Knockout("high-zero", "high band set to zero", _bands(lambda low, high: (low, torch.zeros_like(high)))),
    )  # fmt: skip
    kernel: Tensor
    autocorrelation: Tensor
    shares: nn.Parameter | None

    def __init__(self, c: int, split: str = "overlap", patch: int = PATCH, tau: int = TAU) -> None:
        """Build the split.

        Args:
            c: Channels of the map.
            split: ``overlap``, ``patch`` or ``learned``.
            patch: Side of a patch in cells, 2 to 16.
            tau: Coefficients (u, v) with u + v < tau are the low band.

        Raises:
            ConfigError: If a value is something else, or a band would be empty.
        """
        super().__init__()
        checks.sizes("BandSplit", c=c)
        checks.one_of("BandSplit split", split, SPLITS)
        check_patch("BandSplit patch", patch)
        check_tau("BandSplit tau", tau, patch)
        self.split, self.patch, self.shares = split, patch, None
        self.fixed_size = split == "patch"  # in an exported file padding and crop are constants of one map size
        low = patch_dct.low_band(patch, tau)
        if split == "patch":
            kernel = patch_dct.depthwise(patch_dct.dct_kernels(patch)[low > 0], c)
        else:
            autocorrelation = patch_dct.autocorrelations(patch)
            kernel = patch_dct.band_kernel(low, autocorrelation).expand(c, 1, -1, -1).clone()
            if split == "learned":
                self.shares = nn.Parameter((_SOFT * (2 * low - 1)).repeat(c, 1))
                self.register_buffer("autocorrelation", autocorrelation, persistent=False)
        self.register_buffer("kernel", kernel, persistent=False)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[from, 1, BandSplit, []]``: a row that returns two maps, for `Pick`."""
        (c,) = ctx.inputs(1)
        return RowPlan([c, *split_options(ctx)], [c, c])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return [low, high], two maps like ``x``, (B, C, H, W).

        Raises:
            ShapeError: In training, if a side of the map is shorter than a patch; one image, such as a strip, may be.
        """
        if self.training:
            require_patch(x, self.patch, type(self).__name__)
        if self.split == "patch":
            low = patch_dct.project_patches(x, self.kernel)
        else:
            low = patch_dct.filter_map(x, self.kernel if self.shares is None else self.learned_kernel())
        return [low, x - low]

    def learned_kernel(self) -> Tensor:
        """Return the convolution of the learned shares, (C, 1, 2 patch - 1, 2 patch - 1)."""
        assert self.shares is not None
        return patch_dct.band_kernel(self.shares.sigmoid(), self.autocorrelation)[:, None]

    @torch.no_grad()
    def fold(self) -> None:
        """Compute the kernel of learned shares once."""
        if self.shares is not None:
            self.kernel, self.shares = self.learned_kernel().detach().clone(), None


def split_options(ctx: RowContext) -> tuple[str, int, int]:
    """Return split, patch and tau as the model YAML's section has them.

    Raises:
        ConfigError: If one is wrong, or tau leaves a band of the patch empty.
    """
    split, patch, tau = ctx.option("split"), ctx.option("patch"), ctx.option("tau")
    check_tau("dsmoe.tau", tau, patch)
    return split, patch, tau


def require_patch(x: Tensor, patch: int, who: str) -> None:
    """Refuse a map with less room than a patch takes.

    Raises:
        ShapeError: Names both.
    """
    h, w = x.shape[-2:]
    if min(h, w) < patch:
        expected = f"at most the shorter side of the map, {min(h, w)} (dsmoe.patch in the model YAML), or larger images"
        raise ShapeError(f"{who} patch", expected, str(patch))
