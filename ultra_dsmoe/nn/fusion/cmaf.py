"""Cross-modality attention fusion: one vector of a picture and its two texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.nn.base import autocast_off
from ultra_dsmoe.nn.contract import CLASSIFY, Option
from ultra_dsmoe.nn.fusion.cross_attention import CellAttention, ChannelAttention, Norm
from ultra_dsmoe.nn.fusion.text_adapter import WIDTH
from ultra_dsmoe.nn.knockout import Knockout, Record, constant, hooked
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

GATED, PLAIN, NONE = ("cmaf", "cmaf_nosig"), ("concat", "mean"), "none"
FUSIONS = (*GATED, *PLAIN, NONE)
CELLS, CHANNEL = "cells", "channel"
ATTENTIONS = (CELLS, CHANNEL)
TRAIN, ALWAYS = "train", "always"  # when there are texts: while the net learns, or at inference too
_HALF = 0.5  # what W starts with


class Gate(nn.Linear):
    """The weights W of a vector's parts, ``sigmoid(Proj(x))``; Proj starts at zero and W at 0.5.

    Source: [PFA] Eq. 7; the start is our choice.
    """

    def __init__(self, c1: int, parts: int = 3, *, sigmoid: bool = True) -> None:
        """Build the gate.

        Args:
            c1: Width of what it reads.
            parts: How many weights it gives.
            sigmoid: False gives the projection itself, whose bias then starts at 0.5.
        """
        self.sigmoid = sigmoid
        super().__init__(c1, parts)

    def reset_parameters(self) -> None:
        """Return to the start."""
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, 0.0 if self.sigmoid else _HALF)

    def forward(self, x: Tensor) -> Tensor:
        """Return W, (B, parts), in fp32."""
        with autocast_off(x):
            w = nn.functional.linear(x.float(), self.weight.float(), self.bias.float())
            return w.sigmoid() if self.sigmoid else w


def uniform(parts: list[Any], record: Record, seed: int) -> AbstractContextManager[None]:
    """Let an attention weigh everything equally."""
    return hooked(parts, lambda m, args, out: torch.full_like(out, 1 / out.shape[-1]))


def _gated(block: Any) -> bool:
    return block.fusion in GATED


def _reads_texts(block: Any) -> bool:
    return block.fusion != NONE


def _picture(block: Any) -> list[nn.Module]:
    """Return where the picture comes in: its vector, and the cells of its map where the texts look at them."""
    looked_at = _gated(block) and block.form == CELLS
    return [block.norm_image, *([block.attention.norm] if looked_at else [])]


def _knockouts() -> Iterator[Knockout]:
    row, gated = "a CMAF row that reads texts (text_mode: always)", "a CMAF row with a gate"
    inputs: dict[str, tuple[str, Callable[[Any], list[nn.Module]]]] = {
        "picture": ("picture, vector and map,", _picture),
        "vlm": ("text of the picture", lambda m: [m.norm_vlm]),
        "llm": ("text of the record", lambda m: [m.norm_llm]),
        "texts": ("both texts", lambda m: [m.norm_vlm, m.norm_llm]),
    }
    for name, (what, parts) in inputs.items():
        yield Knockout(f"fusion-{name}-constant", f"{what} replaced by the mean in the fusion", constant, row,
                       _reads_texts, mean=True, parts=parts)  # fmt: skip
    yield Knockout("fusion-weights-constant", "weights W of picture and texts replaced by their mean",
                   constant, gated, _gated, mean=True, parts=lambda m: [m.gate])  # fmt: skip
    yield Knockout("fusion-attention-uniform", "attention of the fusion weighs everything equally", uniform, gated,
                   _gated, parts=lambda m: [m.attention.softmax])  # fmt: skip


@register
class CMAF(nn.Module):
    """Weigh a picture's vector and its two texts' against one another and add them up.

    ``Zf = W1 Zv + W2 Zl + W3 Zi``, ``W = sigmoid(Proj([C_v; C_l; Zi]))``, where the texts Zv and Zl look at the cells
    of the map and C is each with what it sees added, see `CellAttention`. All vectors are normalised before.

    With ``attention="channel"`` the form as written: ``W = sigmoid(Proj(C))`` with the C of `ChannelAttention`, and no
    normalisation. There W starts as a matter of the picture alone.

    ``fusion`` names the comparisons: ``cmaf_nosig``, without the sigmoid; ``concat`` and ``mean`` of the normalised
    vectors; ``none``, the picture alone, without parameters: for nets that read texts only while they learn.

    The gate needs no faster pace than its neighbours: 768 normalised inputs move W by themselves, and at a pace of
    1e-2 it ran into [1, 1, 1].

    Source: [PFA] Eq. 6-8 in the channel form; the form over cells, the normalisation and what the gate reads are our
    choice.
    """

    task: ClassVar[str] = CLASSIFY
    options: ClassVar[dict[str, Option]] = {
        "fusion": Option(None, lambda argument, value: checks.one_of(argument, value, FUSIONS)),
        "fusion_attention": Option(CELLS, lambda argument, value: checks.one_of(argument, value, ATTENTIONS)),
        "text_mode": Option(ALWAYS, lambda argument, value: checks.one_of(argument, value, (TRAIN, ALWAYS))),
    }
    knockouts = tuple(_knockouts())
    record_weights: bool = False
    weights: Tensor | None = None

    def __init__(
        self, c_map: int, c: int = WIDTH, heads: int = 4, fusion: str = GATED[0], attention: str = CELLS
    ) -> None:
        """Build the block.

        Args:
            c_map: Channels of the map.
            c: Width of the vectors.
            heads: Heads of the attention, a divisor of ``c``.
            fusion: ``cmaf``, ``cmaf_nosig``, ``concat``, ``mean`` or ``none``.
            attention: ``cells`` or ``channel``; the latter of the two gated forms alone.

        Raises:
            ConfigError: If a value is something else.
        """
        super().__init__()
        checks.sizes("CMAF", c_map=c_map, c=c, heads=heads)
        checks.one_of("CMAF fusion", fusion, FUSIONS)
        checks.one_of("CMAF attention", attention, ATTENTIONS)
        if c % heads:
            raise ConfigError("CMAF heads", f"a divisor of {c}, the width of the vectors", heads)
        if attention == CHANNEL and fusion not in GATED:
            raise ConfigError(
                "CMAF attention", f"{CELLS} where fusion is {fusion}, which attends to nothing", attention
            )
        self.fusion, self.form = fusion, attention
        if fusion == NONE:
            return
        self.norm_image, self.norm_vlm, self.norm_llm = (
            nn.Identity() if attention == CHANNEL else Norm(c) for _ in range(3)
        )
        if fusion in GATED:
            channel = attention == CHANNEL
            self.attention = ChannelAttention(c, heads) if channel else CellAttention(c_map, c, heads)
            self.gate = Gate(c if channel else 3 * c, sigmoid=fusion == GATED[0])

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[[map, image, vlm, llm], 1, CMAF, [heads]]``; all else stands in the model YAML's section.

        Raises:
            ConfigError: If the three vectors differ in width.
        """
        c_map, c, *texts = ctx.inputs(4)
        if texts != [c, c]:
            raise ConfigError("model YAML row CMAF", f"texts as wide as the image's vector, {c}", f"{texts}")
        fusion = ctx.option("fusion") or (NONE if ctx.option("text_mode") == TRAIN else GATED[0])
        kwargs = {"fusion": fusion, "attention": ctx.option("fusion_attention")}
        return RowPlan([c_map, c, ctx.arg(0, 4)], 3 * c if fusion == PLAIN[0] else c, kwargs)

    def forward(self, x: Sequence[Tensor | None]) -> Tensor:
        """Fuse the vectors.

        Args:
            x: Map (B, C, H, W), image (B, c), first and second text (B, c), which may be None where fusion is ``none``.

        Returns:
            Zf, (B, c); (B, 3 c) of the concatenation.

        Raises:
            ShapeError: If the image or a text that is needed is not there, or the map to attend to is none.
        """
        cells, image, vlm, llm = x
        if image is None:
            raise ShapeError("CMAF image", "a vector per image", "none")
        if self.fusion == NONE:
            return image
        if vlm is None or llm is None:
            raise ShapeError("CMAF texts", "two per image, in a fourth channel, or fusion: none", "none")
        image, vlm, llm = self.norm_image(image), self.norm_vlm(vlm), self.norm_llm(llm)
        if self.fusion in PLAIN:
            return torch.cat([vlm, llm, image], 1) if self.fusion == PLAIN[0] else (vlm + llm + image) / 3
        w = self.gate(self._seen(cells, image, vlm, llm))
        if self.record_weights:
            self.weights = w.detach()
        w = w.to(image.dtype)
        return w[:, :1] * vlm + w[:, 1:2] * llm + w[:, 2:] * image  # [PFA] Eq. 8

    def _seen(self, cells: Tensor | None, image: Tensor, vlm: Tensor, llm: Tensor) -> Tensor:
        """Return what the gate reads, (B, 3 c), or (B, c) of the channel form."""
        if self.form == CHANNEL:
            return self.attention(vlm, llm, image)
        if cells is None or cells.ndim != 4:
            raise ShapeError("CMAF map", "shape (B, C, H, W)", "none" if cells is None else tuple(cells.shape))
        seen = self.attention(cells, torch.stack([vlm, llm], 1))
        return torch.cat([seen.flatten(1), image], 1)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the weights of the last images."""
        return {**self.__dict__, "weights": None}
