"""Watch the stages of a network while it runs: their mean outputs and the choices of its gates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Detect

from ultra_dsmoe.nn.attention.kinds import KINDS, MapAttention
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate
from ultra_dsmoe.nn.neck.feature_aggregation import FeatureAggregation
from ultra_dsmoe.nn.neck.hub_inject import HubInject
from ultra_dsmoe.nn.neck.hyperbolic_fusion import HyperbolicFusion
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE


@dataclass
class Mean:
    """Running mean per channel over images and positions."""

    total: Tensor | None = None
    count: int = 0

    def add(self, x: Tensor) -> None:
        """Take in a map (B, C, H, W)."""
        new = x.detach().float().sum((0, 2, 3)).cpu().double()
        self.total = new if self.total is None else self.total + new
        self.count += x.shape[0] * x.shape[2] * x.shape[3]

    def like(self, x: Tensor) -> Tensor:
        """Return a map of the shape, type and device of ``x`` that is the mean everywhere, (B, C, H, W)."""
        assert self.total is not None, "nothing was recorded"
        return (self.total / self.count).to(x)[None, :, None, None].expand_as(x).clone()


@dataclass
class Record:
    """What a pass over a data set left behind.

    Attributes:
        means: Mean output of a stage; of the weight for an attention in a head.
        gates: Gate weights of every image, one tensor (B, N) per batch.
    """

    means: dict[nn.Module, Mean] = field(default_factory=dict)
    gates: dict[nn.Module, list[Tensor]] = field(default_factory=dict)

    def routing(self, gate: nn.Module) -> Tensor:
        """Return the gate's weights for all images in order, (I, N) in fp32 on the CPU."""
        return torch.cat(self.gates[gate])


def blocks(net: nn.Module, kind: type) -> list:
    """Return all blocks of a class."""
    return [m for m in net.modules() if isinstance(m, kind)]


def head_attentions(net: nn.Module) -> list[MapAttention]:
    """Return the attention blocks, `DualAttention` or `CBAM`, inside the detection heads."""
    return [m for head in blocks(net, Detect) for kind in KINDS for m in blocks(head, kind)]


def hub_outputs(net: nn.Module) -> list[nn.Module]:
    """Return what ends the hub: `FeatureAggregation`, or the row behind it that adds O to the map the experts read."""
    injects = blocks(net, HubInject)
    fed = {m.f[1]: m for m in injects if hasattr(m, "f")}  # by the number of the row whose output is handed on
    behind = [(m, fed.get(getattr(m, "i", None))) for m in blocks(net, FeatureAggregation)]
    return [m if end is None or end.i not in fed else end for m, end in behind]


@contextmanager
def recording(net: nn.Module, record: Record) -> Iterator[None]:
    """Fill ``record`` while the block runs; the network computes what it always does."""

    def output(m: nn.Module, args: tuple, out: Tensor) -> None:
        record.means.setdefault(m, Mean()).add(out)

    def attention(m: nn.Module, args: tuple, out: Tensor) -> None:
        assert isinstance(m, KINDS)
        record.means.setdefault(m, Mean()).add(m.weight(args[0]))

    def gate(m: nn.Module, args: tuple, out: Tensor) -> None:
        record.gates.setdefault(m, []).append(out.detach().float().cpu())

    with ExitStack() as stack:
        stages = [*blocks(net, SparseMoE), *blocks(net, HyperbolicFusion), *hub_outputs(net)]
        handles = [m.register_forward_hook(output) for m in stages]
        handles += [m.register_forward_hook(attention) for m in head_attentions(net)]
        handles += [m.register_forward_hook(gate) for m in blocks(net, ExpertGate)]
        for handle in handles:
            stack.callback(handle.remove)
        yield
