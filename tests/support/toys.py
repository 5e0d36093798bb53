"""Small layers and model YAMLs for the plugin's tests, independent of the real blocks."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules import Conv

from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

STRIDES = (8, 16, 32)


@register
class ToyChain(nn.Module):
    """One input, one output, repeats scaled by depth."""

    def __init__(self, c1: int, c2: int, n: int = 1) -> None:
        super().__init__()
        self.chain = nn.Sequential(*(Conv(c1 if i == 0 else c2, c2, 3) for i in range(n)))

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        (c1,) = ctx.inputs(1)
        return RowPlan([c1, ctx.scaled(ctx.args[0]), ctx.n], ctx.scaled(ctx.args[0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.chain(x)


@register
class ToyNeck(nn.Module):
    """Several inputs, several outputs."""

    def __init__(self, c1: list[int], c2: list[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Conv(a, b) for a, b in zip(c1, c2, strict=True))

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        c2 = [ctx.scaled(c) for c in ctx.args[0]]
        return RowPlan([ctx.inputs(1, 9), c2], c2)

    def forward(self, x: list[torch.Tensor]) -> list[torch.Tensor]:
        return [conv(v) for conv, v in zip(self.convs, x, strict=True)]


@register
class ToyRecord(nn.Module):
    """Keeps what its parse rule was told."""

    seen: RowContext

    def __init__(self, *args: Any, flag: bool = False) -> None:
        super().__init__()
        self.args, self.flag = args, flag

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        ToyRecord.seen = ctx
        (c1,) = ctx.inputs(1)
        return RowPlan(list(ctx.args), c1, {"flag": True}, repeats=2 if ctx.options.get("twice") else 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def toy_yaml(scale: str = "n", **extra: Any) -> dict[str, Any]:
    """Return a model YAML with single-input, list-input, list-output rows and stock rows between and behind them."""
    backbone = [
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 1, "Conv", [128, 3, 2]],
        [-1, 6, "ToyChain", [128]],
        [-1, 1, "Conv", [256, 3, 2]],
        [-1, 6, "C2f", [256, True]],
        [-1, 1, "Conv", [512, 3, 2]],
        [-1, 1, "ToyChain", [512]],
        [-1, 1, "Conv", [1024, 3, 2]],
    ]
    head = [
        [[4, 6, 7], 1, "ToyNeck", [[256, 512, 512]]],
        [8, 1, "Pick", [0]],
        [8, 1, "Pick", [1]],
        [8, 1, "Pick", [2]],
        [[-1, -2], 1, "Concat", [1]],
        [[9, 10, 11], 1, "Detect", ["nc"]],
    ]
    head[4][0] = [10, 6]  # a stock row that joins one of ours with another of ours
    scales = {"n": [0.33, 0.25, 1024], "s": [0.33, 0.5, 1024], "m": [0.67, 0.75, 768]}
    return {"nc": 3, "scales": scales, "scale": scale, "backbone": backbone, "head": head, **extra}


def with_row(position: int, row: list[Any], **extra: Any) -> dict[str, Any]:
    """Return `toy_yaml` with the row at ``position`` replaced."""
    d = deepcopy(toy_yaml(**extra))
    rows = d["backbone"] + d["head"]
    rows[position] = row
    d["backbone"], d["head"] = rows[: len(d["backbone"])], rows[len(d["backbone"]) :]
    return d
