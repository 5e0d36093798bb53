"""What image and reference differ by in the features of rows that serve both, added to those of the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Conv

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ShapeError
from ultra_dsmoe.nn.knockout import Knockout, constant
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register


@register
class FeatureDifference(nn.Module):
    """Make one map of those of image and reference: ``X = F + BN(Conv1x1(|F - F_reference|))``.

    It reads what the form ``features`` of `Reference` began, rows of image, reference, image, reference ..., and ends
    it: the rows behind it see images alone. The normalisation starts with weight 0, so that a net starts, to the last
    bit, by computing what it does on the image alone.

    Source: our choice. Rows that serve two images, and the absolute difference of their features, are those of
    FC-Siam-diff (Daudt, Le Saux, Boulch, arXiv 1810.08462), a net for changes between two pictures of one place; adding
    it to the image's own features is what lets pretrained weights go on.
    """

    knockouts = (
        Knockout("difference-constant", "what the difference of features adds replaced by its mean", constant,
                 mean=True, parts=lambda m: [m.project]),
    )  # fmt: skip
    fast_parameters = ("project.bn.weight",)

    def __init__(self, channels: int) -> None:
        """Build the block for maps of ``channels``."""
        super().__init__()
        checks.sizes("FeatureDifference", channels=channels)
        self.channels = channels
        self.project = Conv(channels, channels, 1, act=False)
        nn.init.zeros_(self.project.bn.weight)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[from, 1, FeatureDifference, []]``."""
        (c1,) = ctx.inputs(1)
        return RowPlan([c1], c1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the images' maps with their share, (2B, C, H, W) -> (B, C, H, W).

        Raises:
            ShapeError: If the maps come in no pairs, or have another number of channels.
        """
        if not torch.jit.is_tracing() and (x.ndim != 4 or x.shape[0] % 2 or x.shape[1] != self.channels):
            expected = f"pairs of maps (2B, {self.channels}, H, W)"
            raise ShapeError("FeatureDifference input", expected, tuple(x.shape))
        pairs = x.reshape(-1, 2 * self.channels, *x.shape[2:])
        image, reference = pairs[:, : self.channels], pairs[:, self.channels :]
        return image + self.project((image - reference).abs())
