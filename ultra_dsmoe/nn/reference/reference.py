"""First row of a net that sees a known-good picture of the product, the reference, beside the image."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.nn.knockout import Knockout, Record, Switch, hooked
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register
from ultra_dsmoe.ops.window_difference import window_difference

PACKED, MIXED = ("pack", "local"), ("conv", "conv-local")
FORMS = (*PACKED, *MIXED, "features")
DEFAULT_FORM = "pack"
WINDOW = 3  # pixels over which the local forms look for a match (our choice)
PACK = 3  # channels of G, R and D
RGB = 3
LUMA = (0.299, 0.587, 0.114)  # gray of RGB, ITU-R BT.601


def _changed(change: Callable[[Any, Tensor], Tensor]) -> Switch:
    """Return the switch that gives a row other pairs: ``change(row, pairs)``."""

    def switch(rows: list[Any], record: Record, seed: int) -> AbstractContextManager[None]:
        return hooked(rows, lambda m, args, out: m.forward(change(m, args[0])))

    return switch


def _blank(row: Any, pairs: Tensor) -> Tensor:
    image = pairs[:, : row.channels]
    return torch.cat([image, torch.zeros_like(image)], 1)


def _same(row: Any, pairs: Tensor) -> Tensor:
    return pairs[:, : row.channels].repeat(1, 2, 1, 1)


def _shuffled(rows: list[Any], record: Record, seed: int) -> AbstractContextManager[None]:
    """Give every image the reference of the image before it; the first one of all has the last of its own batch."""
    last: dict[Any, Tensor] = {}

    def change(row: Any, pairs: Tensor) -> Tensor:
        image, reference = pairs[:, : row.channels], pairs[:, row.channels :]
        before = last.get(row, reference[-1:])
        last[row] = reference[-1:].clone()
        before = F.interpolate(before, reference.shape[2:])  # batches may differ in size
        return torch.cat([image, torch.cat([before, reference[:-1]])], 1)

    return _changed(change)(rows, record, seed)


@register
class Reference(nn.Module):
    """Turn an image and its reference, stacked as (B, 2C, H, W), into the input of an ordinary net.

    With G and R as gray of image and reference and D as their difference, a form hands on:

    ==============  ==================================================================================================
    ``pack``        ``[G, R, |G - R|]``, three channels, which a pretrained net takes for colours
    ``local``       the same with the `window_difference` as D, which a shift of a pixel or two does not change
    ``conv``        ``image + M [G, R, |G - R|]``, the image in its colours. M, a 1x1 convolution, starts at zero: to
                    the last bit, the net starts by computing what it does on the image alone
    ``conv-local``  the same with the `window_difference` as D
    ``features``    image, reference, image, reference ..., (2B, C, H, W), for rows that serve both alike;
                    `FeatureDifference` makes one map of their two
    ==============  ==================================================================================================

    An image of one channel is gray already, and ``conv`` makes it three equal ones, as pretrained nets have; of other
    numbers than one and three, gray is the mean. Where there is no reference its half is 0: then ``pack`` and ``local``
    hand on ``[G, 0, G]``, ``conv`` starts as the image, and ``features`` compares it with a black one.

    Source: our choice. RefDiffNet (Edula, Badwe, Bagade, arXiv 2606.00852) is published beside it: an encoder of the
    difference in front of the detector.
    """

    knockouts = (
        Knockout("reference-blank", "reference replaced by an empty one", _changed(_blank)),
        Knockout("reference-same", "reference replaced by the image: no difference", _changed(_same)),
        Knockout("reference-shuffled", "reference of the image before", _shuffled),
    )
    fast_parameters: tuple[str, ...] = ()
    gray: Tensor

    def __init__(self, channels: int, form: str = DEFAULT_FORM, window: int | None = None) -> None:
        """Build the block.

        Args:
            channels: C, channels of the image alone.
            form: See above.
            window: Side of the window of the local forms in pixels, odd; 3 where None.

        Raises:
            ConfigError: If a value is something else, or a window is given to a form that has none.
        """
        super().__init__()
        checks.sizes("Reference", channels=channels)
        checks.one_of("Reference form", form, FORMS)
        self.channels, self.form = channels, form
        self.window = _checked_window(form, window)
        if channels > 1 and form in (*PACKED, *MIXED):
            self.register_buffer("gray", _gray_weights(channels), persistent=False)
        if form in MIXED:
            self.mix = nn.Parameter(torch.zeros(self.handed_on, PACK))
            self.fast_parameters = ("mix",)

    @property
    def handed_on(self) -> int:
        """Channels of what the form hands on."""
        return out_channels(self.channels, self.form)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[-1, 1, Reference, [form, window]]``, the first row.

        Raises:
            ConfigError: If the input has an odd number of channels.
        """
        (c1,) = ctx.inputs(1)
        if c1 % 2:
            raise ConfigError("model YAML row Reference", "an image and its reference, an even number of channels", c1)
        form = checks.one_of("Reference form", ctx.arg(0, DEFAULT_FORM), FORMS)
        return RowPlan([c1 // 2, form, ctx.arg(1)], out_channels(c1 // 2, form))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the form hands on, from images with their references, (B, 2C, H, W) in [0, 1].

        Raises:
            ShapeError: If the input has another number of channels.
        """
        if not torch.jit.is_tracing() and (x.ndim != 4 or x.shape[1] != 2 * self.channels):
            expected = f"images with their references (B, {2 * self.channels}, H, W)"
            raise ShapeError("Reference input", expected, tuple(x.shape))
        if self.form == "features":
            return x.reshape(-1, self.channels, *x.shape[2:])
        packed = self.packed(x)
        if self.form in PACKED:
            return packed
        return x[:, : self.channels] + _mixed(self.mix, packed)  # one channel becomes three here

    def packed(self, x: Tensor) -> Tensor:
        """Return G, R and D of images with their references, (B, 2C, H, W) -> (B, 3, H, W)."""
        grays = x if self.channels == 1 else _mixed(self.gray, x)
        image, reference = grays[:, :1], grays[:, 1:]
        local = self.window > 1
        difference = window_difference(image, reference, self.window) if local else (image - reference).abs()
        return torch.cat([grays, difference], 1)


def _mixed(weights: Tensor, x: Tensor) -> Tensor:
    """Return sums of channels, (C', C) of (B, C, H, W): a 1x1 convolution, in a third of its time on a CPU."""
    return (weights @ x.flatten(2)).reshape(-1, weights.shape[0], *x.shape[2:])


def out_channels(channels: int, form: str) -> int:
    """Return the channels that a form hands on for images of ``channels``."""
    if form in PACKED or (form in MIXED and channels == 1):
        return PACK
    return channels


def _checked_window(form: str, window: Any) -> int:
    """Return the side of the window, 1 for a form without one.

    Raises:
        ConfigError: If it is none, or the form has none.
    """
    if not form.endswith("local"):
        if window is not None:
            raise ConfigError("Reference window", f"a window for the local forms alone, not for '{form}'", window)
        return 1
    window = WINDOW if window is None else window
    if not checks.is_whole(window, 3) or window % 2 == 0:
        raise ConfigError("Reference window", "an odd number of pixels from 3 on", window)
    return int(window)


def _gray_weights(channels: int) -> Tensor:
    """Return what makes gray of an image and of its reference, (2, 2C)."""
    weights = torch.tensor(LUMA if channels == RGB else [1 / channels] * channels)
    return torch.block_diag(weights, weights)
