"""Stage 8: the sparse mixture of experts, computed for the chosen experts only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.constants import MODES
from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.nn.base import SettingsMixin, TextFoldMixin
from ultra_dsmoe.nn.contract import Option
from ultra_dsmoe.nn.knockout import Knockout, constant
from ultra_dsmoe.nn.neck.expert_gate import EXPERTS, TOPK, UNIVERSAL, ExpertGate, check_kept, resolve_topk
from ultra_dsmoe.nn.neck.experts import CrossModalExperts, GlobalExpert, LocalExpert
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

REDRAW_VARIANCE = 0.1  # of a re-drawn expert around its source, relative to the source's own (our choice)


@register
class SparseMoE(SettingsMixin, TextFoldMixin):
    """Mix the k chosen of N experts: 0 local, 1 global, 2..N-1 cross-modal; batch-normalise the mixture.

    ``M = sum_{n in top-k} G_n Expert_n(X, T)``. Four ways to compute it, equal to 1e-5:

    * training: the chosen (image, expert) pairs and nothing else;
    * ``gather`` in evaluation and in exported files: the stacked cross-modal weights of the k chosen experts are
      gathered inside the graph; experts 0 and 1 always run, scaled by their gate. No branch depends on data;
    * ``static`` in evaluation and in exported files: a fixed set of kept experts runs on every image, with constant
      weights, and no other expert is computed or exported. The gate has to choose among the kept experts (see
      `ExpertGate.keep`), so images whose k experts are all kept get what ``gather`` gives them;
    * ``dense`` in evaluation: all N experts, the reference.

    With one input the block brings its own gate and needs no text, so it fits any model YAML. How many experts an image
    gets is the gate's to say, its own or that of the row it reads: the mixture keeps no number beside it.

    Source: [DSMoE] Eq. 21. The closing batch normalisation, which gives M', is our choice: it keeps the mixture from
    being bypassed by the stages behind it.
    """

    options: ClassVar[dict[str, Option]] = {"experts": EXPERTS, "topk": TOPK}
    run_settings = ("k", "mode", "kept", "dynamic_conv")
    knockouts = (Knockout("mixture-constant", "expert mixture replaced by its mean", constant, mean=True),)
    dynamic_conv: bool = True  # nets of older checkpoints have none of their own
    kept: tuple[int, ...] | None = None
    _cross_ids: Tensor
    _row_gate: tuple[ExpertGate, ...] = ()  # a tuple, since the gate's parameters belong to its own row
    _k: int | None = None  # of a mixture that is given the weights of no gate it knows

    def __init__(
        self,
        c: int,
        experts: int = 32,
        topk: int | str | None = "auto",
        *,
        text_width: int | None = None,
        own_gate: bool = False,
        mode: str = "gather",
        dynamic_conv: bool = True,
    ) -> None:
        """Build the mixture.

        Args:
            c: Channels C, kept.
            experts: Number of experts N, at least 3 (one of each kind).
            topk: Experts k per image, or ``auto``; None leaves it to the gate, see `connect`.
            text_width: Width of T; None for experts without text.
            own_gate: Whether the block holds its gate instead of being given one.
            mode: ``gather`` or ``dense``, in evaluation; ``static`` needs `set_mode`.
            dynamic_conv: Whether ``gather`` may use convolutions with gathered weights, see `CrossModalExperts`.

        Raises:
            ConfigError: If N < 3, k is not within 1..N or the mode is unknown.
        """
        super().__init__()
        checks.whole("experts", experts, UNIVERSAL + 1)
        checks.sizes("SparseMoE", c=c, **({} if text_width is None else {"text_width": text_width}))
        self.experts = experts
        self.gate = ExpertGate(c, experts, "auto" if topk is None else topk) if own_gate else None
        if self.gate is None and topk is not None:
            self._k = resolve_topk(topk, experts)
        self.local = LocalExpert(c)
        self.wide = GlobalExpert(c)
        self.cross = CrossModalExperts(c, experts - UNIVERSAL, text_width)
        self.bn = nn.BatchNorm2d(c)
        self.dynamic_conv = dynamic_conv
        self.set_mode(mode)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[[map, text, gate], 1, SparseMoE, [experts]]`` or ``[from, 1, SparseMoE, [experts, topk]]``."""
        channels = ctx.inputs(1, 3)
        if len(channels) == 2:
            raise ConfigError("model YAML row SparseMoE", "'from' with 1 (map) or 3 (map, text, gate) inputs", "2")
        experts = ctx.arg(0, ctx.option("experts"))
        if len(channels) == 1:
            topk = ctx.arg(1, ctx.option("topk"))
            return RowPlan([channels[0], experts, topk], channels[0], {"own_gate": True})
        c1, text_width, gated = channels
        if gated != experts:
            raise ConfigError("model YAML row SparseMoE", f"a gate over {experts} experts", f"{gated}")
        return RowPlan([c1, experts, ctx.arg(1)], c1, {"text_width": text_width})

    def connect(self, sources: Sequence[nn.Module]) -> None:
        """Follow the gate among the layers that the row reads.

        Raises:
            ConfigError: If the row names another k than its gate has, or none while it reads no gate itself.
        """
        if self.gate is not None:
            return
        for gate in (m for m in sources if isinstance(m, ExpertGate)):
            if self._k not in (None, gate.k):
                raise ConfigError("topk in model YAML row SparseMoE", f"none, or {gate.k} as its gate has", self._k)
            self.follow(gate)
        if self.router is None and self._k is None:
            raise ConfigError("model YAML row SparseMoE", "an ExpertGate as its third input, or a topk", "neither")

    def follow(self, gate: ExpertGate) -> None:
        """Take over what a gate says, now and later; ``topk`` of the mixture's own is forgotten."""
        self._row_gate, self._k = (gate,), None

    @property
    def router(self) -> ExpertGate | None:
        """The gate that chooses for this mixture: its own, or the row that it reads; None where that is no gate."""
        return self.gate if self.gate is not None else next(iter(self._row_gate), None)

    @property
    def k(self) -> int:
        """Experts per image, the gate's."""
        if self.router is not None:
            return self.router.k
        return resolve_topk("auto", self.experts) if self._k is None else self._k

    def set_topk(self, topk: int | str) -> None:
        """Change the number of experts per image, in the gate where there is one.

        Raises:
            ConfigError: If k is not within 1..N, or more than static execution has kept.
        """
        if self.router is not None:
            self.router.set_topk(topk)
            return
        k = resolve_topk(topk, self.experts)
        if self.kept is not None:
            check_kept(self.kept, k, self.experts)
        self._k = k

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read a mixture of an older checkpoint, which had a k of its own."""
        super().__setstate__(state)
        if (k := self.__dict__.pop("k", None)) is not None and self.gate is None:
            self._k = k

    def set_mode(self, mode: str, kept: Sequence[int] | None = None) -> None:
        """Choose how evaluation computes the mixture.

        Args:
            mode: One of `MODES`.
            kept: Experts that ``static`` keeps, for it alone; a gate given from outside must keep the same ones.

        Raises:
            ConfigError: If the mode is unknown, or the kept experts are missing, needless or wrong.
        """
        checks.one_of("moe mode", mode, MODES)
        if (mode == "static") != (kept is not None):
            came = "static without them" if kept is None else f"{mode} with {list(kept)}"
            raise ConfigError("moe mode", "static with the experts to keep, or another mode", came)
        self.kept = None if kept is None else check_kept(kept, self.k, self.experts)
        cross = None if self.kept is None else [n - UNIVERSAL for n in self.kept if n >= UNIVERSAL]
        ids = None if cross is None else torch.tensor(cross, dtype=torch.long, device=self.cross.w_f.device)
        self.register_buffer("_cross_ids", ids, persistent=False)
        if self.gate is not None:
            self.gate.keep(self.kept)
        self.mode = mode

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Take settings; k comes first, by which the kept experts are checked."""
        if self.router is None:
            self._k = settings["k"]
        else:
            self.router.k = settings["k"]
        self.dynamic_conv = settings["dynamic_conv"]
        self.set_mode(settings["mode"], settings["kept"])

    def text_constants(self, text: Tensor | None) -> tuple[Tensor]:
        """Return the text biases of the cross-modal experts, (N - 2, C)."""
        return (self.cross.text_bias(text),)

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        """Return the normalised mixture M'.

        Args:
            x: The map X, (B, C, H, W), or X, T (K, d_t) and the gate G (B, N).

        Returns:
            (B, C, H, W).

        Raises:
            ShapeError: If the gate's shape does not fit.
        """
        feat, text, gate = x if isinstance(x, (list, tuple)) else (x, None, None)
        if gate is None:
            assert self.gate is not None
            gate = self.gate(feat)
        if gate.shape != (feat.shape[0], self.experts):
            raise ShapeError("SparseMoE gate", f"shape ({feat.shape[0]}, {self.experts})", tuple(gate.shape))
        (bias,) = self.constants(text)
        if self.training:
            mixture = self._pairs(feat, gate, bias)
        elif self.mode == "gather":
            mixture = self._gather(feat, gate, bias)
        elif self.mode == "static":
            mixture = self._static(feat, gate, bias)
        else:
            mixture = self._dense(feat, gate, bias)
        return self.bn(mixture)

    def _pairs(self, x: Tensor, gate: Tensor, bias: Tensor) -> Tensor:
        """Compute the chosen (image, expert) pairs only; index lists depend on data, so this is for training."""
        out = torch.zeros_like(x)
        for expert, column in ((self.local, 0), (self.wide, 1)):
            rows = gate[:, column].nonzero().flatten()
            if len(rows):
                out = out.index_add(0, rows, (expert(x[rows]) * gate[rows, column, None, None, None]).to(out.dtype))
        image, expert_id = gate[:, UNIVERSAL:].nonzero(as_tuple=True)
        if len(image):
            y = self.cross(x[image].unsqueeze(1), expert_id.unsqueeze(1), bias)[:, 0]  # (P, C, H, W)
            weight = gate[image, expert_id + UNIVERSAL, None, None, None]
            out = out.index_add(0, image, (y * weight).to(out.dtype))
        return out

    def _universal(self, x: Tensor, gate: Tensor) -> Tensor:
        return self.local(x) * gate[:, 0, None, None, None] + self.wide(x) * gate[:, 1, None, None, None]

    def _gather(self, x: Tensor, gate: Tensor, bias: Tensor) -> Tensor:
        weight, idx = gate.topk(self.k, -1)
        # Slots routed to experts 0 and 1 compute cross-modal expert 0 for nothing and get weight 0.
        weight = weight * (idx >= UNIVERSAL).to(weight.dtype)
        idx = (idx - UNIVERSAL).clamp_min(0)
        y = self.cross(x.unsqueeze(1), idx, bias, self.dynamic_conv)  # (B, k, C, H, W)
        return self._universal(x, gate) + _weighted_sum(weight, y)

    def _static(self, x: Tensor, gate: Tensor, bias: Tensor) -> Tensor:
        assert self.kept is not None
        pairs = [(self.local, 0), (self.wide, 1)]
        parts = [expert(x) * gate[:, n, None, None, None] for expert, n in pairs if n in self.kept]
        if m := sum(n >= UNIVERSAL for n in self.kept):
            y = self.cross.fixed(x, self._cross_ids, bias, m)  # (B, M, C, H, W)
            parts.append(_weighted_sum(gate[:, self._cross_ids + UNIVERSAL], y))
        return sum(parts[1:], parts[0])

    def _dense(self, x: Tensor, gate: Tensor, bias: Tensor) -> Tensor:
        everyone = torch.arange(self.experts - UNIVERSAL, device=x.device).expand(x.shape[0], -1)
        y = self.cross(x.unsqueeze(1), everyone, bias, self.dynamic_conv)
        return self._universal(x, gate) + _weighted_sum(gate[:, UNIVERSAL:], y)

    @torch.no_grad()
    def redraw(self, dead: Tensor, source: int, generator: torch.Generator) -> None:
        """Re-draw dead cross-modal experts near expert ``source``; parameters that are frozen stay.

        Args:
            dead: Expert numbers (of all N), 1-D.
            source: Expert to copy; a universal one has other parameters, then the dead keep theirs.
            generator: Source of the noise; the same on all workers keeps them equal.
        """
        if source < UNIVERSAL:
            return
        ids = dead[dead >= UNIVERSAL] - UNIVERSAL
        for p in (p for p in self.cross.stacked(text=False) if p.requires_grad):
            spread = p[source - UNIVERSAL].std(unbiased=False).item() * math.sqrt(REDRAW_VARIANCE)
            noise = torch.randn((len(ids), *p.shape[1:]), generator=generator).to(p)
            p[ids] = p[source - UNIVERSAL] + spread * noise


def _weighted_sum(weight: Tensor, y: Tensor) -> Tensor:
    """Sum y (B, k, C, H, W) over k with weights (B, k) as one MatMul."""
    b, k, c, h, w = y.shape
    return (weight.to(y.dtype).unsqueeze(1) @ y.reshape(b, k, c * h * w)).reshape(b, c, h, w)
