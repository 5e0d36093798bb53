"""Watch the stages of a network while it runs: their mean outputs and the choices of its gates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from ultralytics.nn.modules import Detect

from ultra_dsmoe.nn import registry
from ultra_dsmoe.nn.attention.kinds import KINDS, MapAttention
from ultra_dsmoe.nn.knockout import Mean, Record
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate
from ultra_dsmoe.nn.neck.feature_aggregation import FeatureAggregation
from ultra_dsmoe.nn.neck.hub_inject import HubInject


def blocks(net: nn.Module, kind: type | tuple[type, ...]) -> list[Any]:
    """Return all blocks of a class, or of several."""
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

    def output(m: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        record.means.setdefault(m, Mean()).add(out)

    def attention(m: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        assert isinstance(m, KINDS)
        record.means.setdefault(m, Mean()).add(m.weight(args[0]))

    def gate(m: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        record.gates.setdefault(m, []).append(out.detach().float().cpu())

    with ExitStack() as stack:
        entries = [(cls, knockout) for cls, knockout in registry.knockouts() if knockout.mean]
        stages = [p for cls, k in entries for m in blocks(net, cls) if k.applies(m) for p in k.parts(m)]
        stages += hub_outputs(net)
        handles = [m.register_forward_hook(output) for m in dict.fromkeys(stages)]
        handles += [m.register_forward_hook(attention) for m in head_attentions(net)]
        handles += [m.register_forward_hook(gate) for m in blocks(net, ExpertGate)]
        for handle in handles:
            stack.callback(handle.remove)
        yield
