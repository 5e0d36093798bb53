"""A block of one's own, with all that a block may bring along: option, loss terms, setting, fold and knock-outs.

Import this module, then name `Spotlight` in a model YAML such as `own-block.yaml`, and train it like any other:

    import spotlight
    from ultralytics import YOLO

    YOLO("own-block.yaml").train(data="pcb-demo.yaml", epochs=20, imgsz=320)
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ultra_dsmoe import RowContext, RowPlan, register
from ultra_dsmoe.checks import number
from ultra_dsmoe.losses import cell_labels
from ultra_dsmoe.nn import AuxLossMixin, AuxTerm, Knockout, LinearFoldMixin, Option, Record, SettingsMixin
from ultra_dsmoe.nn.knockout import constant, hooked


def check_floor(argument: str, value: Any) -> None:
    """Refuse what is no number from 0 to 1."""
    number(argument, value, 0, 1)


def box_loss(score: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return the cross-entropy of "a box covers this position", from scores (B, 1, H, W) and the batch's labels."""
    cls, boxes, index = (batch[key].to(score.device) for key in ("cls", "bboxes", "batch_idx"))
    labels = cell_labels(cls.view(-1), boxes, index.view(-1), (score.shape[0], *score.shape[2:]))
    return F.binary_cross_entropy_with_logits(score[:, 0].float(), (labels >= 0).float())


def all_alike(blocks: list[Any], record: Record, seed: int) -> AbstractContextManager[None]:
    """Weigh all positions by 1."""
    return hooked(blocks, lambda block, args, out: args[0])


@register
class Spotlight(AuxLossMixin, SettingsMixin, LinearFoldMixin, nn.Module):
    """Weigh every position by how likely it is that a box covers it: ``y = x (floor + (1 - floor) sigmoid(score))``."""

    options: ClassVar[dict[str, Option]] = {"spotlight_floor": Option(0.5, check_floor)}
    aux_terms: ClassVar[dict[str, AuxTerm]] = {
        "spot": AuxTerm(0.1, box_loss, "spot_loss"),  # needs labels, and has a column of its own in results.csv
        "glare": AuxTerm(0.01),  # is a number already; is added to the column aux_loss
    }
    run_settings = ("floor",)
    knockouts = (
        Knockout("spotlight-off", "all positions weighed by 1", all_alike),
        Knockout("spotlight-constant", "spotlight's output replaced by its mean", constant, mean=True),
    )

    def __init__(self, c: int, floor: float) -> None:
        """Build the block for ``c`` channels; ``floor`` is the least weight of a position."""
        super().__init__()
        self.floor = floor
        self.norm: nn.Module = nn.BatchNorm2d(c)
        self.score = nn.Conv2d(c, 1, 1)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[from, 1, Spotlight, []]``."""
        (c,) = ctx.inputs(1)
        return RowPlan([c, ctx.option("spotlight_floor")], c)

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighed map, (B, C, H, W)."""
        score = self.score(self.norm(x))
        weight = self.floor + (1 - self.floor) * score.sigmoid()
        if self.training:
            self.aux = {"spot": score, "glare": weight.mean()}
        return x * weight

    @torch.no_grad()
    def fold(self) -> None:
        """Put the normalisation into the convolution behind it."""
        norm, score = self.norm, self.score
        if not isinstance(norm, nn.BatchNorm2d):
            return
        mean, var, bias = norm.running_mean, norm.running_var, score.bias
        scale = norm.weight * torch.rsqrt(var + norm.eps)
        bias += score.weight[0, :, 0, 0] @ (norm.bias - mean * scale)
        score.weight *= scale.view(1, -1, 1, 1)
        self.norm = nn.Identity()
