"""Switch one thing in a network off for a while, through hooks: weights are never edited and everything comes back.

A stage is replaced by what it says on average (its mean over the data set) rather than by zero: the stages behind it
then see values of the usual size, and what is lost is what the stage says about the single image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from ultra_dsmoe.explain.record import Record, blocks, head_attentions
from ultra_dsmoe.nn.attention.kinds import KINDS
from ultra_dsmoe.nn.base import TextFoldMixin
from ultra_dsmoe.nn.head.text_logits import TextLogits
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate
from ultra_dsmoe.nn.neck.space_broadcast import SpaceBroadcast
from ultra_dsmoe.nn.neck.text_semantics import TextSemantics

Switch = Callable[[nn.Module, Record, int], AbstractContextManager]
Find = Callable[[nn.Module], list]


def text_rows(net: nn.Module) -> list[TextSemantics]:
    """Return the text rows that have text vectors."""
    return [m for m in blocks(net, TextSemantics) if m.text]


@contextmanager
def hooked(modules: list, hook: Callable, *, before: bool = False) -> Iterator[None]:
    """Hold a forward hook on modules; ``before`` makes it one that changes their input."""
    with ExitStack() as stack:
        for m in modules:
            handle = m.register_forward_pre_hook(hook) if before else m.register_forward_hook(hook)
            stack.callback(handle.remove)
        yield


def constant(find: Find) -> Switch:
    """Return a switch that replaces the output of blocks by its mean."""

    def switch(net: nn.Module, record: Record, seed: int) -> AbstractContextManager:
        return hooked(find(net), lambda m, args, out: record.means[m].like(out))

    return switch


@contextmanager
def random_routing(net: nn.Module, record: Record, seed: int) -> Iterator[None]:
    """Give each image's k weights to k experts drawn at random, uniformly."""
    gates = blocks(net, ExpertGate)
    # NumPy draws image by image, so the choice does not depend on the batch size.
    generators = {m: np.random.default_rng((seed, i)) for i, m in enumerate(gates)}

    def hook(m: nn.Module, args: tuple, out: Tensor) -> Tensor:
        assert isinstance(m, ExpertGate)
        draw = torch.from_numpy(generators[m].random(tuple(out.shape))).to(out.device)
        idx = draw.argsort(-1)[:, : m.k]
        return torch.zeros_like(out).scatter(1, idx, out.topk(m.k, -1).values)

    with hooked(gates, hook):
        yield


def fixed_routing(net: nn.Module, record: Record, seed: int) -> AbstractContextManager:
    """Send every image to the k experts that most images chose, with their mean weights."""

    def hook(m: nn.Module, args: tuple, out: Tensor) -> Tensor:
        assert isinstance(m, ExpertGate)
        return most_used(record.routing(m), m.k).to(out).expand_as(out)

    return hooked(blocks(net, ExpertGate), hook)


def most_used(routing: Tensor, k: int) -> Tensor:
    """Return the gate of the k most used experts, their mean weights scaled to sum 1, (I, N) -> (N,)."""
    usage = (routing > 0).sum(0)
    idx = usage.argsort(descending=True, stable=True)[:k]
    gate = torch.zeros_like(routing[0])
    gate[idx] = routing.mean(0)[idx]
    return gate / gate.sum()


def offsets_zero(net: nn.Module, record: Record, seed: int) -> AbstractContextManager:
    """Sample the regular 3x3 grid: dilation and mask stay."""
    last = [m.offset_pw for m in blocks(net, SpaceBroadcast)]
    return hooked(last, lambda m, args, out: torch.zeros_like(out))  # a tanh follows, and tanh 0 = 0


def class_text_off(net: nn.Module, record: Record, seed: int) -> AbstractContextManager:
    """Take the text's share out of the class logits."""
    return hooked(blocks(net, TextLogits), lambda m, args, out: out - m.text_term(args[0]))


def attention_off(net: nn.Module, record: Record, seed: int) -> AbstractContextManager:
    """Give the attention its neutral weight 1."""
    return hooked(head_attentions(net), lambda m, args, out: 2 * args[0] if m.residual else args[0])


def attention_constant(net: nn.Module, record: Record, seed: int) -> AbstractContextManager:
    """Give the attention its mean weight per channel."""

    def hook(m: nn.Module, args: tuple, out: Tensor) -> Tensor:
        (x,) = args
        assert isinstance(m, KINDS)
        y = record.means[m].like(x) * x
        return x + y if m.residual else y

    return hooked(head_attentions(net), hook)


@contextmanager
def unfolded(net: nn.Module) -> Iterator[None]:
    """Have everything that depends on text computed anew in every forward; the folded constants stay as they are."""
    folded = [m for m in blocks(net, TextFoldMixin) if m.folded]
    try:
        for m in folded:
            m.folded = False
        yield
    finally:
        for m in folded:
            m.folded = True


def other_text(change: Callable[[Tensor, np.random.Generator], Tensor]) -> Switch:
    """Return a switch that puts changed text vectors in place of the classes' own."""

    @contextmanager
    def switch(net: nn.Module, record: Record, seed: int) -> Iterator[None]:
        rows = text_rows(net)
        own = [m.bank for m in rows]
        with unfolded(net):
            try:
                for i, m in enumerate(rows):
                    m.bank = change(m.bank, np.random.default_rng((seed, i)))
                yield
            finally:
                for m, bank in zip(rows, own, strict=True):
                    m.bank = bank

    return switch


def exchanged(bank: Tensor, rng: np.random.Generator) -> Tensor:
    """Give every class the vector of another one: one random cycle through all classes."""
    cycle = rng.permutation(len(bank))
    out = torch.empty_like(bank)
    out[cycle] = bank[np.roll(cycle, 1)]
    return out


def drawn(bank: Tensor, rng: np.random.Generator) -> Tensor:
    """Draw vectors of random direction and each class's own length."""
    noise = torch.from_numpy(rng.standard_normal(tuple(bank.shape))).to(bank)
    return noise / noise.norm(dim=-1, keepdim=True) * bank.norm(dim=-1, keepdim=True)


@contextmanager
def semantics_constant(net: nn.Module, record: Record, seed: int) -> Iterator[None]:
    """Give all classes the mean of their semantics T: text vectors and class positions say nothing any more."""
    with (
        unfolded(net),
        hooked(blocks(net, TextSemantics), lambda m, args, out: out.mean(0, keepdim=True).expand_as(out)),
    ):
        yield


def nothing(net: nn.Module, record: Record, seed: int) -> AbstractContextManager:
    """Switch nothing off."""
    return nullcontext()
