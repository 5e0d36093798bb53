"""Stages 1 and 2: text prompts to class semantics T."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError, TextError
from ultra_dsmoe.nn.base import AuxLossMixin, TextFoldMixin
from ultra_dsmoe.nn.contract import AuxTerm, Option
from ultra_dsmoe.nn.knockout import Knockout, Record, Switch, hooked
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

POOLED, ATTENDED = "pooled", "attended"  # what stage 2 sees of a class: the mean of its descriptions, or each of them
TEXT_WIDTH = 256  # d_t, [DSMoE] configuration of the text encoder
BANK_WIDTH = 1536  # hidden size of DeepSeek-R1-Distill-Qwen-1.5B; the hashed fallback has it too
_MIN_RMS = 1e-6  # against a division by zero where all classes have the same text
_PE_BASE = 10000.0  # of the usual sinusoidal position encoding (our choice of initial frequencies)


def other_text(change: Callable[[Tensor, np.random.Generator], Tensor]) -> Switch:
    """Return a switch that puts changed text vectors in place of the classes' own."""

    @contextmanager
    def switch(rows: list[Any], record: Record, seed: int) -> Iterator[None]:
        own = [m.bank for m in rows]
        try:
            for i, m in enumerate(rows):
                m.bank = change(m.bank, np.random.default_rng((seed, i)))
            yield
        finally:
            for m, bank in zip(rows, own, strict=True):
                m.bank = bank

    return switch


def permuted(bank: Tensor, rng: np.random.Generator) -> Tensor:
    """Give every class the vector of another one: one random cycle through all classes."""
    cycle = rng.permutation(len(bank))
    out = torch.empty_like(bank)
    out[cycle] = bank[np.roll(cycle, 1)]
    return out


def random_directions(bank: Tensor, rng: np.random.Generator) -> Tensor:
    """Draw vectors of random direction and each class's own length."""
    noise = torch.from_numpy(rng.standard_normal(tuple(bank.shape))).to(bank)
    return noise / noise.norm(dim=-1, keepdim=True) * bank.norm(dim=-1, keepdim=True)


def semantics_constant(rows: list[Any], record: Record, seed: int) -> AbstractContextManager[None]:
    """Give all classes the mean of their semantics T: text vectors and class positions say nothing any more."""
    return hooked(rows, lambda m, args, out: out.mean(0, keepdim=True).expand_as(out))


def _knockouts() -> Iterator[Knockout]:
    row = "a TextSemantics row with text vectors"
    several = "text vectors of more than one class"
    zero, random = other_text(lambda bank, rng: torch.zeros_like(bank)), other_text(random_directions)
    yield Knockout("text-zero", "text vectors set to zero", zero, row, lambda m: m.text, text=True)
    yield Knockout(
        "text-shuffled",
        "text vectors exchanged between classes",
        other_text(permuted),
        several,
        lambda m: m.text and m.nc > 1,
        text=True,
    )
    yield Knockout("text-random", "text vectors of random direction", random, row, lambda m: m.text, text=True)
    yield Knockout(
        "semantics-constant",
        "all classes share one text semantics T",
        semantics_constant,
        "a TextSemantics row of more than one class",
        lambda m: m.nc > 1,
        text=True,
    )


@register
class TextSemantics(AuxLossMixin, TextFoldMixin):
    """Turn the frozen text vectors of the classes into class semantics T.

    ``E0 = W_p bank + PE(k)``; ``T = LayerNorm(E0 + MHA_8(E0, E0, E0))``. The vectors are a buffer: no language model is
    ever in the graph. With ``text=False`` T is a learnable table (the ablation).

    The vectors are centred over the classes and scaled to unit variance before W_p. That is no other function, only
    another starting point: raw unit vectors came out of a fresh W_p with norm 0.3 beside a position encoding of norm
    11, so that T told the classes apart by their number and not by their text.

    With ``attend`` every description of every class is a token of the attention, so that a class's own descriptions
    see one another too; T is the mean over a class's tokens. A class counts once as a key, however many descriptions
    it has: with one each, or with equal ones, T is that of the pooled vectors.

    Source: [DSMoE] Eq. 1, 2. The residual, the scaling and the weights of the descriptions are our choice.
    """

    attend: bool = False  # blocks of older checkpoints have none of their own
    options: ClassVar[dict[str, Option]] = {
        "text": Option(True, checks.flag),
        "descriptions": Option(POOLED, lambda argument, value: checks.one_of(argument, value, (POOLED, ATTENDED))),
    }
    aux_terms: ClassVar[dict[str, AuxTerm]] = {"ort": AuxTerm(0.01)}  # [DSMoE] Eq. 31, its size our choice
    knockouts = tuple(_knockouts())
    stacked_vectors: ClassVar[dict[str, int]] = {"table": 1}

    def __init__(
        self, nc: int, width: int = TEXT_WIDTH, heads: int = 8, *, text: bool = True, attend: bool = False
    ) -> None:
        """Build the block.

        Args:
            nc: Number of classes K.
            width: Text width d_t, even and a multiple of ``heads``.
            heads: Attention heads.
            text: Whether T comes from text vectors.
            attend: Whether stage 2 attends over the descriptions instead of their mean.

        Raises:
            ConfigError: If a size is not a positive integer, or ``width`` does not divide.
        """
        super().__init__()
        checks.whole("TextSemantics nc", nc, expected="at least one class")
        checks.sizes("TextSemantics", width=width, heads=heads)
        checks.flag("TextSemantics text", text)
        if width % (2 * heads):
            raise ConfigError("TextSemantics width", f"a multiple of {2 * heads}", width)
        self.nc, self.width, self.heads, self.text, self.attend = nc, width, heads, text, attend and text
        if not text:
            self.table = nn.Parameter(torch.randn(1, nc, width))  # 3-D: see `ExpertGate.token`
            return
        # A placeholder until `set_bank`: fixed directions, so that building a net consumes no random numbers.
        generator = torch.Generator().manual_seed(0)
        bank = F.normalize(torch.randn(nc, BANK_WIDTH, generator=generator), dim=-1)
        self.register_buffer("bank", bank)
        self.project = nn.Linear(BANK_WIDTH, width)
        self.frequency = nn.Parameter(_PE_BASE ** (-torch.arange(0, width, 2).float() / width))
        self.phase = nn.Parameter(torch.zeros(width // 2))
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[from, 1, TextSemantics, [width, heads]]``; the input only marks the place in the graph."""
        width = ctx.arg(0, TEXT_WIDTH)
        attend = ctx.option("descriptions") == ATTENDED
        return RowPlan([ctx.nc, width, ctx.arg(1, 8)], width, {"text": ctx.option("text"), "attend": attend})

    def set_bank(self, vectors: Tensor) -> None:
        """Take new text vectors; another d renews the projection.

        Args:
            vectors: One per class, (K, d), or one per description, (K, P, d), where zeros fill up classes of fewer.
                A block that does not attend keeps the mean of a class's unit vectors at length 1.

        Raises:
            TextError: If the block has no text side, K differs, or a vector is not finite.
        """
        if not self.text:
            raise TextError("text vectors", "a model with `text: true`", "a model without text")
        if vectors.ndim not in (2, 3) or vectors.shape[0] != self.nc or 0 in vectors.shape:
            expected = f"shape ({self.nc}, d), one per class, or ({self.nc}, P, d)"
            raise TextError("text vectors", expected, tuple(vectors.shape))
        if not torch.isfinite(vectors).all():
            raise TextError("text vectors", "finite numbers", "NaN or infinity")
        if vectors.ndim == 3 and not self.attend:
            vectors = F.normalize(vectors.float().sum(1), dim=-1)
        like = self.project.weight
        if vectors.shape[-1] != self.project.in_features:
            self.project = nn.Linear(vectors.shape[-1], self.width).to(like.device, like.dtype)
        self.bank = vectors.detach().clone().to(like.device, like.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take weights as any module does; vectors of another width come with their projection."""
        bank = state_dict.get(f"{prefix}bank")
        if self.text and bank is not None and bank.ndim in (2, 2 + self.attend) and len(bank) == self.nc:
            self.set_bank(bank)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def shares(self) -> Tensor:
        """Return how much each description counts in its class, (K, P); none where zeros stand for one.

        A class of nothing but zeros, as knock-outs make them, is taken as it is.
        """
        there = (self._described().abs().amax(-1) > 0).to(self.bank.dtype)  # `any` of booleans is exported wrongly
        there = there + (there.amax(1, keepdim=True) == 0).to(there.dtype)
        return there / there.sum(1, keepdim=True)

    def vectors(self) -> Tensor:
        """Return the text vectors with mean zero over classes (where there are several) and unit variance, (K P, d)."""
        bank, share = self._described(), self.shares().unsqueeze(-1)
        centred = bank - (share * bank).sum(1).mean(0) if self.nc > 1 else bank
        return (centred / (share * centred.square()).sum(1).mean().sqrt().clamp_min(_MIN_RMS)).flatten(0, 1)

    def _described(self) -> Tensor:
        """Return the text vectors, (K, P, d), where P is 1 for one vector per class."""
        return self.bank if self.bank.ndim == 3 else self.bank.unsqueeze(1)

    def position(self, dtype: torch.dtype) -> Tensor:
        """Return the class position encoding PE, (K, d_t)."""
        k = torch.arange(self.nc, device=self.frequency.device, dtype=dtype).unsqueeze(-1)
        angle = k * self.frequency.to(dtype) + self.phase.to(dtype)
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)  # sin and cos in turn

    def text_constants(self, text: Tensor | None = None) -> tuple[Tensor]:
        """Return T, (K, d_t)."""
        if not self.text:
            return (self.table[0],)
        share = self.shares()  # (K, P)
        place = self.position(self.bank.dtype).repeat_interleave(share.shape[1], 0)
        e0 = self.project(self.vectors()) + place  # [DSMoE] Eq. 1
        q, k, v = self.qkv(e0).view(len(e0), 3, self.heads, -1).permute(1, 2, 0, 3)  # each (heads, K P, d_h)
        # The logarithm makes a class's keys as heavy as one, and takes out those of zeros.
        attn = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + share.flatten().log(), -1)
        mixed = (attn @ v).transpose(0, 1).reshape(len(e0), self.width)
        if self.training:
            values = F.normalize(self._of_classes(v.transpose(0, 1).reshape(len(e0), -1).float(), share), dim=-1)
            self.aux = {"ort": orthogonality(values)}
        return (self.norm(self._of_classes(e0 + self.out(mixed), share)),)  # [DSMoE] Eq. 2

    def _of_classes(self, tokens: Tensor, share: Tensor) -> Tensor:
        """Return the mean over each class's descriptions, (K P, n) -> (K, n)."""
        return (share.to(tokens.dtype).unsqueeze(-1) * tokens.view(*share.shape, -1)).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return T, (K, d_t); ``x`` is not read."""
        return self.constants(None)[0]


def orthogonality(values: Tensor) -> Tensor:
    """Return ``||V V^T - I||_F^2 / K^2`` of unit rows (K, d), a scalar >= 0, zero for orthogonal values."""
    eye = torch.eye(len(values), device=values.device, dtype=values.dtype)
    return ((values @ values.T - eye) ** 2).sum() / len(values) ** 2
