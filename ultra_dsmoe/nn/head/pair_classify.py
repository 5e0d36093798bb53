"""Classifier of pictures with texts: classes from the fused vector, and what alignment and warm-up need beside them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Classify

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.nn.fusion.text_adapter import WIDTH
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

PHASES = WARM_UP, ALIGNMENT, FUSION = "warm-up", "alignment", "fusion"  # of a training, in order
TAU, TAU_RANGE = 0.07, (0.01, 0.5)  # our choice
_LOW, _HIGH = map(math.log, TAU_RANGE)
_MARGIN = 1e-3  # that training keeps from the bounds, relative to tau: on them a clamp may pass no gradient


class PairOutputs(NamedTuple):
    """What the head returns in training.

    Attributes:
        logits: Of the classes, (B, K).
        image: Image in the shared space, (B, c).
        vlm: Text about the picture, (B, c), or None.
        llm: Text about the record, (B, c), or None.
        warm: Logits (B, K) of each of the three alone, None of a text that is not there.
    """

    logits: Tensor
    image: Tensor
    vlm: Tensor | None
    llm: Tensor | None
    warm: list[Tensor | None]


@register
class PairClassify(Classify):
    """Classify the fused vector by ``linear(dropout(gelu(mlp)))``.

    Beside it are three classifiers, of image and texts alone, for the warm-up, and the temperature of the alignment.
    It is one of the host's ``Classify`` for what the host asks of a head: task, number of classes, export.

    Source: [PFA] Sec. on fusion, "Y = MLP(Zf)"; sizes and dropout are our choice.
    """

    fast_parameters = ("log_tau",)
    phase: str = FUSION  # that a training is in
    whole: bool = False  # whether evaluation returns what training does

    def __init__(self, nc: int, c1: int, c: int = WIDTH, hidden: int = 128, dropout: float = 0.1) -> None:
        """Build the head.

        Args:
            nc: Number of classes.
            c1: Width of the fused vector.
            c: Width of the shared space.
            hidden: Width of the hidden layer.
            dropout: Share of it that is dropped in training.

        Raises:
            ConfigError: If a value is something else.
        """
        nn.Module.__init__(self)  # the host's own layers would be another classifier
        checks.sizes("PairClassify", nc=nc, c1=c1, c=c, hidden=hidden)
        checks.number("PairClassify dropout", dropout, 0, 1)
        self.c = c
        self.log_tau = nn.Parameter(torch.tensor([math.log(TAU)]))
        self.warm = _warm(c, nc)
        self.mlp = nn.Sequential(nn.Linear(c1, hidden), nn.GELU(), nn.Dropout(dropout))
        self.linear = nn.Linear(hidden, nc)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[[fused, image, vlm, llm], 1, PairClassify, [nc, hidden, dropout]]``.

        Raises:
            ConfigError: If image and texts differ in width.
        """
        ctx.plain(3)
        c1, c, *texts = ctx.inputs(4)
        if texts != [c, c]:
            raise ConfigError("model YAML row PairClassify", f"texts as wide as the image's vector, {c}", f"{texts}")
        nc = checks.whole("PairClassify nc", ctx.arg(0, ctx.nc))
        return RowPlan([nc, c1, c, ctx.arg(1, 128), ctx.arg(2, 0.1)], nc)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a last layer of other classes, which the host puts in, renews the warm-up's classifiers."""
        super().__setattr__(name, value)
        if name == "linear" and isinstance(value, nn.Linear) and value.out_features != self.warm[0].out_features:
            self.warm = _warm(self.c, value.out_features).to(value.weight)

    @property
    def tau(self) -> Tensor:
        """Temperature of the alignment, within [0.01, 0.5], in fp32."""
        return self.log_tau.float().clamp(_LOW, _HIGH).exp()

    def forward(self, x: Any) -> Any:
        """Classify images.

        Args:
            x: Fused vector (B, c1), then image and texts (B, c), the texts None where there are none.

        Returns:
            `PairOutputs` in training, else probabilities (B, K) and logits, for export the former alone. Before fusion
            they are those of the image's classifier of the warm-up: what is behind the fused vector has not trained.

        Raises:
            ShapeError: In training, if the row of the image gives none.
        """
        fused, image, vlm, llm = x
        logits = self.linear(self.mlp(fused))
        if self.training:
            # One that has left its range would get no gradient any more. Of `data`: a graph that read it may be alive.
            self.log_tau.data.clamp_(_LOW + _MARGIN, _HIGH - _MARGIN)
        if self.training or self.whole:
            if image is None:
                raise ShapeError("PairClassify image", "a vector per image", "none")
            alone = zip(self.warm, (image, vlm, llm), strict=True)
            warm = [None if z is None else layer(z) for layer, z in alone]
            return PairOutputs(logits, image, vlm, llm, warm)
        if self.phase != FUSION:
            logits = self.warm[0](image)
        probabilities = logits.float().softmax(1).to(logits.dtype)
        return probabilities if self.export else (probabilities, logits)


def _warm(c: int, nc: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(c, nc) for _ in range(3))
