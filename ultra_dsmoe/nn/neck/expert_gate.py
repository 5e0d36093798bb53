"""Stage 7: the gate that chooses k of N experts once per image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.base import AuxLossMixin, SettingsMixin, TextFoldMixin, autocast_off
from ultra_dsmoe.nn.contract import AuxTerm, Option
from ultra_dsmoe.nn.knockout import Knockout, Record, hooked
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

HIDDEN = 128  # width of the two hidden layers, [DSMoE]; also the latent width (our choice)
HEADS = 4  # cosine heads (our choice)
KINDS = ("local", "global", "cross-modal")  # of experts 0, 1 and all others
EXPERTS, TOPK = Option(32), Option("auto")  # of gates and mixtures, whose constructors check them
UNIVERSAL = 2  # experts 0 (local) and 1 (global) see the mean of all classes, the others one class each
TOKEN_STD = 0.5  # of the expert tokens: smaller ones left the gate uniform
GATE_FLOOR = 1e-6  # weights below become denormals and slow every MatMul down (measured)
TAU_RANGE = (0.01, 1.0)
_BN_EPS = 1e-5


def resolve_topk(topk: int | str, experts: int) -> int:
    """Return k: ``auto`` is ceil(log2 N), at least 1.

    Source: [DSMoE] Sec. on dynamic sparsity: k = log2 N.

    Raises:
        ConfigError: If k is not an integer from 1 to N.
    """
    if topk == "auto":
        return max(1, math.ceil(math.log2(experts)))
    if isinstance(topk, str) or not checks.is_whole(topk, 1, experts):
        raise ConfigError("topk", f"'auto' or an integer from 1 to {experts} (the number of experts)", topk)
    return topk


def check_kept(kept: Sequence[int], k: int, experts: int) -> tuple[int, ...]:
    """Return the numbers of the experts that static execution keeps, in order.

    Raises:
        ConfigError: If they are not at least k different experts.
    """
    numbers = tuple(sorted(set(kept)))
    if len(numbers) != len(kept) or len(kept) < k or not all(0 <= n < experts for n in numbers):
        raise ConfigError("kept experts", f"at least {k} different numbers from 0 to {experts - 1}", list(kept))
    return numbers


def mlp(c1: int) -> nn.Sequential:
    """Return a perceptron with two hidden layers, c1 -> 128 -> 128 -> 128.

    The last layer has no bias: centring (keys) and batch normalisation (queries) would remove it.
    """
    return nn.Sequential(
        nn.Linear(c1, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN, bias=False)
    )


def check_kinds(kinds: object, k: int, experts: int) -> tuple[int, ...]:
    """Return the numbers of the experts of some kinds.

    Raises:
        ConfigError: If they are not different names out of `KINDS` whose experts are at least k.
    """
    good = isinstance(kinds, (list, tuple)) and len(set(map(str, kinds))) == len(kinds) and set(kinds) <= set(KINDS)
    numbers = tuple(n for n in range(experts) if good and KINDS[min(n, UNIVERSAL)] in kinds)  # type: ignore[operator]
    if len(numbers) < k:
        raise ConfigError("kinds of experts", f"names out of {', '.join(KINDS)} of at least {k} experts", kinds)
    return numbers


@contextmanager
def random_routing(gates: list[Any], record: Record, seed: int) -> Iterator[None]:
    """Give each image's k weights to k experts drawn at random, uniformly."""
    # NumPy draws image by image, so the choice does not depend on the batch size.
    generators = {m: np.random.default_rng((seed, i)) for i, m in enumerate(gates)}

    def hook(m: ExpertGate, args: tuple[Any, ...], out: Tensor) -> Tensor:
        draw = torch.from_numpy(generators[m].random(tuple(out.shape))).to(out.device)
        idx = draw.argsort(-1)[:, : m.k]
        return torch.zeros_like(out).scatter(1, idx, out.topk(m.k, -1).values)

    with hooked(gates, hook):
        yield


def fixed_routing(gates: list[Any], record: Record, seed: int) -> AbstractContextManager[None]:
    """Send every image to the k experts that most images chose, with their mean weights."""

    def hook(m: ExpertGate, args: tuple[Any, ...], out: Tensor) -> Tensor:
        return most_used(record.routing(m), m.k).to(out).expand_as(out)

    return hooked(gates, hook)


def most_used(routing: Tensor, k: int) -> Tensor:
    """Return the gate of the k most used experts, their mean weights scaled to sum 1, (I, N) -> (N,)."""
    usage = (routing > 0).sum(0)
    idx = usage.argsort(descending=True, stable=True)[:k]
    gate = torch.zeros_like(routing[0])
    gate[idx] = routing.mean(0)[idx]
    return gate / gate.sum()


@register
class ExpertGate(AuxLossMixin, SettingsMixin, TextFoldMixin):
    """Score N experts by the cosine between the image and text-conditioned expert keys; keep the best k.

    The number of experts k lives here alone: mixtures, keys of a call, exports and studies ask the gate.

    Source: [DSMoE] Eq. 20. Normalised inputs, centred keys and large tokens are our choice: without them the gate
    stayed uniform through a whole training.
    """

    options: ClassVar[dict[str, Option]] = {"experts": EXPERTS, "topk": TOPK}
    aux_terms: ClassVar[dict[str, AuxTerm]] = {"bal": AuxTerm(0.01)}  # [DSMoE] Eq. 31, its size our choice
    run_settings = ("k", "kept")
    knockouts = (
        Knockout("routing-random", "experts drawn at random for each image", random_routing, needs="an ExpertGate"),
        Knockout("routing-fixed", "the most used experts for every image", fixed_routing, needs="an ExpertGate"),
    )
    stacked_vectors: ClassVar[dict[str, int]] = {"token": 1}
    running_mean: Tensor
    running_var: Tensor
    usage: Tensor
    entropy_sum: Tensor
    images: Tensor
    _kept_ids: Tensor
    kept: tuple[int, ...] | None = None  # experts among which evaluation chooses; None for all
    offered: tuple[int, ...] | None = None  # experts that there are to choose from at all; None for all
    _offered_ids: Tensor

    def __init__(
        self,
        c: int,
        experts: int = 32,
        topk: int | str = "auto",
        text_width: int | None = None,
        kinds: Sequence[str] = KINDS,
    ) -> None:
        """Build the gate.

        Args:
            c: Channels of the map.
            experts: Number of experts N.
            topk: Experts k per image, or ``auto``.
            text_width: Width of T; None for a gate without text.
            kinds: Kinds of experts that are ever chosen, out of `KINDS`: the ablation of the others.

        Raises:
            ConfigError: If N < 1, k is not within 1..N, or a kind is unknown or leaves too few.
        """
        super().__init__()
        checks.whole("experts", experts)
        checks.sizes("ExpertGate", c=c, **({} if text_width is None else {"text_width": text_width}))
        self.experts, self.k = experts, resolve_topk(topk, experts)
        width = text_width or HIDDEN
        self.has_text = text_width is not None
        self.norm = nn.LayerNorm(c)
        self.image = mlp(c)
        self.key = mlp(width)
        # Tokens have three axes because a host optimizer orthogonalises every two-dimensional parameter.
        self.token = nn.Parameter(torch.randn(1, experts, width) * TOKEN_STD)
        self.log_tau = nn.Parameter(torch.tensor([math.log(0.1)]))
        self.register_buffer("running_mean", torch.zeros(HIDDEN))
        self.register_buffer("running_var", torch.ones(HIDDEN))
        self.reset_record()
        if (numbers := check_kinds(kinds, self.k, experts)) != tuple(range(experts)):
            self.offered = numbers
            self.register_buffer("_offered_ids", torch.tensor(numbers), persistent=False)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[[map, text], 1, ExpertGate, [experts, topk, kinds]]``; one input gives a gate without text."""
        c1, *text = ctx.inputs(1, 2)
        experts = ctx.arg(0, ctx.option("experts"))
        topk = ctx.arg(1, ctx.option("topk"))
        return RowPlan([c1, experts, topk, *text], experts, {"kinds": ctx.arg(2, KINDS)})

    @property
    def tau(self) -> Tensor:
        """Temperature of the softmax, within [0.01, 1]."""
        return self.log_tau.float().exp().clamp(*TAU_RANGE)

    @torch.no_grad()
    def set_tau(self, tau: float) -> None:
        """Change the temperature: the same experts are chosen, and weighed the more unequally the lower it is.

        Raises:
            ConfigError: If it is outside the range that training keeps to.
        """
        checks.number("temperature of the gate", tau, *TAU_RANGE)
        self.log_tau.fill_(math.log(tau))

    def set_topk(self, topk: int | str) -> None:
        """Change the number of experts chosen per image.

        Raises:
            ConfigError: See `check_topk`.
        """
        self.k = self.check_topk(topk)

    def check_topk(self, topk: int | str) -> int:
        """Return the number of experts that `set_topk` would set.

        Raises:
            ConfigError: If k is not within 1..N, or more than the kinds that are on or the kept experts allow.
        """
        k = resolve_topk(topk, self.experts)
        if self.offered is not None and k > len(self.offered):
            raise ConfigError("topk", f"at most {len(self.offered)}, the experts of the kinds that are on", topk)
        if self.kept is not None:
            check_kept(self.kept, k, self.experts)
        return k

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Take settings; k comes first, by which the kept experts are checked."""
        self.k = settings["k"]
        self.keep(settings["kept"])

    def keep(self, kept: Sequence[int] | None) -> None:
        """Let evaluation choose among these experts only, as if the others did not exist; None frees the choice.

        Raises:
            ConfigError: If they are fewer than k, repeat, or are none of the N experts, or of a kind that is off.
        """
        if kept is not None and self.offered is not None and not set(kept) <= set(self.offered):
            raise ConfigError("kept experts", "none of a kind that is off", list(kept))
        self.kept = None if kept is None else check_kept(kept, self.k, self.experts)
        ids = None if kept is None else torch.tensor(self.kept, device=self.token.device)
        self.register_buffer("_kept_ids", ids, persistent=False)

    def text_constants(self, text: Tensor | None) -> tuple[Tensor]:
        """Return the centred, head-wise normalised expert keys, (N, 128), in fp32."""
        with autocast_off(self.token):
            keys = self.token[0].float()
            if self.has_text:
                assert text is not None
                t = text.float()
                n = torch.arange(self.experts, device=t.device)
                own = t[(n - UNIVERSAL) % len(t)]
                keys = keys + torch.where((n < UNIVERSAL).unsqueeze(-1), t.mean(0, keepdim=True), own)
            keys = _run(self.key, keys)
            return (_normalise_heads(keys - keys.mean(0)),)

    def query(self, x: Tensor) -> Tensor:
        """Return the normalised image query, (B, C, H, W) -> (B, 128), in fp32."""
        pooled = x.float().mean((2, 3))
        pooled = F.layer_norm(pooled, self.norm.normalized_shape, self.norm.weight.float(), self.norm.bias.float())
        q = _run(self.image, pooled)
        if self.training and len(q) > 1:  # one image has no variance
            q = F.batch_norm(q, self.running_mean, self.running_var, training=True, momentum=0.1, eps=_BN_EPS)
        else:
            q = (q - self.running_mean.float()) * torch.rsqrt(self.running_var.float() + _BN_EPS)
        return _normalise_heads(q)

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        """Choose the experts of each image.

        Args:
            x: The map, (B, C, H, W), or the map and T, (K, d_t).

        Returns:
            Gate G with exactly k non-zero weights per image that sum to 1, (B, N).
        """
        feat, text = x if isinstance(x, (list, tuple)) else (x, None)
        (keys,) = self.constants(text)
        with autocast_off(feat):
            logits = self.query(feat) @ keys.float().T / (HEADS * self.tau)  # mean over heads of the cosine
            if self.training or self.kept is None:
                ids = None if self.offered is None else self._offered_ids
            else:
                ids = self._kept_ids
            prob = torch.softmax(logits if ids is None else logits[:, ids], -1)
            weight, idx = prob.topk(self.k, -1)
            if self.training:
                self.aux = {"bal": load_balance(prob, idx)}  # over the experts that there are to choose from
            weight = (weight / weight.sum(-1, keepdim=True)).clamp_min(GATE_FLOOR)
            idx = idx if ids is None else ids[idx]
            gate = torch.zeros_like(logits).scatter(1, idx, weight)  # [DSMoE] Eq. 20
        if self.training:
            self._record(prob.detach(), idx)
        return gate.to(feat.dtype)

    @torch.no_grad()
    def _record(self, prob: Tensor, idx: Tensor) -> None:
        self.usage = self.usage.to(prob) + torch.bincount(idx.flatten(), minlength=self.experts)
        self.entropy_sum = self.entropy_sum.to(prob) - (prob * prob.clamp_min(GATE_FLOOR).log()).sum()
        self.images = self.images.to(prob) + len(prob)

    def reset_record(self) -> None:
        """Forget images per expert, summed entropy and number of the images seen so far.

        These are no buffers: distributed training would overwrite every worker's with those of the first.
        """
        self.usage, self.entropy_sum, self.images = torch.zeros(self.experts), torch.zeros(1), torch.zeros(1)


def load_balance(prob: Tensor, idx: Tensor) -> Tensor:
    """Return ``N sum_n f_n Pbar_n``, 1 when balanced, up to N/k when collapsed.

    Args:
        prob: Gate probabilities, (B, N); they get the gradient.
        idx: Chosen experts, (B, k); their shares f_n count as constants.
    """
    n = prob.shape[-1]
    share = torch.bincount(idx.flatten(), minlength=n).to(prob) / idx.numel()
    return n * (share * prob.mean(0)).sum()


def _run(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Run a perceptron in fp32 whatever the precision of its parameters."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            x = F.linear(x, layer.weight.float(), None if layer.bias is None else layer.bias.float())
        else:
            x = layer(x)
    return x


def _normalise_heads(x: Tensor) -> Tensor:
    """Normalise each head's slice of (M, 128)."""
    return F.normalize(x.reshape(-1, HEADS, HIDDEN // HEADS), dim=-1).flatten(1)
