"""First row of a net of pictures and texts: the image, and the text vectors that travel as its fourth channel."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.nn.contract import CLASSIFY, Option
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

IMAGE, WITH_TEXT = 3, 4  # channels of the input without and with the plane of texts
TEXT_WIDTH = 384  # hidden size of the usual small sentence encoders
NORMS = ("imagenet",)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The numbers recorded with an image, which stand behind its second text: `TextAdapter` reads the key as well.
NUMBERS = Option(0, lambda argument, value: checks.whole(argument, value, 0))


@register
class SplitText(nn.Module):
    """Take an image (B, 4, H, W) apart into its three channels and the text vectors in the fourth.

    The fourth channel holds, row by row, the vector of the first text and then the vector of the second with the
    recorded numbers behind it; the rest of it is not read. An image of three channels has no text: the net's rows hand
    on None in its place.

    Source: our choice. [PFA] feeds two encoders; a loader, a validator and an exported file of Ultralytics feed one
    tensor.
    """

    task: ClassVar[str] = CLASSIFY
    options: ClassVar[dict[str, Option]] = {"text_width": Option(TEXT_WIDTH, checks.whole), "text_numbers": NUMBERS}
    mean: Tensor
    std: Tensor

    def __init__(self, width: int, numbers: int = 0, norm: str | None = None) -> None:
        """Build the block.

        Args:
            width: Length of a text vector.
            numbers: How many recorded numbers there are.
            norm: ``imagenet`` takes that data set's mean off the image and divides by its deviation, so that whoever
                runs an exported file gives it pixels of 0..1; None leaves the image as it is.

        Raises:
            ConfigError: If a value is something else.
        """
        super().__init__()
        checks.sizes("SplitText", width=width)
        checks.whole("SplitText numbers", numbers, 0)
        checks.one_of("SplitText norm", norm, (None, *NORMS))
        self.width, self.numbers, self.norm = width, numbers, norm
        if norm:
            self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, IMAGE, 1, 1), persistent=False)
            self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, IMAGE, 1, 1), persistent=False)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[-1, 1, SplitText, [norm]]``; the lengths stand in the model YAML's section.

        Raises:
            ConfigError: If the row's input has another number of channels than an image with or without texts.
        """
        (c1,) = ctx.inputs(1)
        if c1 not in (IMAGE, WITH_TEXT):
            raise ConfigError("model YAML row SplitText", f"an image of {IMAGE} or {WITH_TEXT} channels", c1)
        width, numbers = ctx.option("text_width"), ctx.option("text_numbers")
        return RowPlan([width, numbers, ctx.arg(0)], [IMAGE, width, width + numbers])

    @property
    def carried(self) -> int:
        """How many values the fourth channel holds."""
        return 2 * self.width + self.numbers

    def forward(self, x: Tensor) -> list[Tensor | None]:
        """Split an image.

        Args:
            x: (B, 3, H, W), or (B, 4, H, W) with texts.

        Returns:
            Image (B, 3, H, W), first text (B, width) and second text (B, width + numbers), None where there is none.

        Raises:
            ShapeError: If the input has another number of channels, or too few pixels for the texts.
        """
        if not torch.jit.is_tracing():
            self._check(x)
        image = x[:, :IMAGE]
        if self.norm:
            image = (image - self.mean) / self.std
        if x.shape[1] == IMAGE:
            return [image, None, None]
        plane = x[:, IMAGE].flatten(1)
        return [image, plane[:, : self.width], plane[:, self.width : self.carried]]

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] not in (IMAGE, WITH_TEXT):
            expected = f"images (B, {IMAGE} or {WITH_TEXT}, H, W)"
            raise ShapeError("SplitText input", expected, tuple(x.shape))
        h, w = x.shape[2:]
        if x.shape[1] == WITH_TEXT and h * w < self.carried:
            expected = f"at least {self.carried} pixels for two texts of {self.width} and {self.numbers} numbers"
            raise ShapeError("SplitText input", expected, f"{h} x {w}")
