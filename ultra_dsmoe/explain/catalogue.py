"""What can be switched off, by name, and which blocks of a network each entry concerns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ultra_dsmoe.explain import switches
from ultra_dsmoe.explain.record import blocks, head_attentions, hub_outputs
from ultra_dsmoe.explain.switches import Find, Switch
from ultra_dsmoe.nn.head.text_logits import TextLogits
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate
from ultra_dsmoe.nn.neck.hyperbolic_fusion import HyperbolicFusion
from ultra_dsmoe.nn.neck.space_broadcast import SpaceBroadcast
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE
from ultra_dsmoe.nn.neck.text_semantics import TextSemantics


@dataclass(frozen=True)
class Knockout:
    """One thing that can be switched off.

    Attributes:
        name: Short name, as in ``only=``.
        what: What is done, in plain words.
        needs: What a network must have for it.
        find: The blocks of a network it concerns; where there are none, it does not apply.
        switch: ``switch(net, record, seed)`` returns the context in which the thing is off.
    """

    name: str
    what: str
    needs: str
    find: Find
    switch: Switch


def of(kind: type) -> Find:
    """Return a search for blocks of a class."""
    return lambda net: blocks(net, kind)


def several_classes(find: Find) -> Find:
    """Return a search for text rows of more than one class."""
    return lambda net: [m for m in find(net) if m.nc > 1]


MIXTURE, FUSION, GATE = of(SparseMoE), of(HyperbolicFusion), of(ExpertGate)
VECTORS = switches.text_rows
CONTROL = "control"  # evaluated last: it also shows that all the others gave everything back

_ALL = (
    Knockout(
        "mixture-constant",
        "expert mixture replaced by its mean",
        "a SparseMoE row",
        MIXTURE,
        switches.constant(MIXTURE),
    ),
    Knockout(
        "routing-random", "experts drawn at random for each image", "an ExpertGate", GATE, switches.random_routing
    ),
    Knockout("routing-fixed", "the most used experts for every image", "an ExpertGate", GATE, switches.fixed_routing),
    Knockout(
        "offsets-zero",
        "sampling grid not deformed",
        "a SpaceBroadcast row",
        of(SpaceBroadcast),
        switches.offsets_zero,
    ),
    Knockout(
        "hyperbolic-constant",
        "hyperbolic fusion replaced by its mean",
        "a HyperbolicFusion row",
        FUSION,
        switches.constant(FUSION),
    ),
    Knockout(
        "text-zero",
        "text vectors set to zero",
        "a TextSemantics row with text vectors",
        VECTORS,
        switches.other_text(lambda bank, rng: torch.zeros_like(bank)),
    ),
    Knockout(
        "text-shuffled",
        "text vectors exchanged between classes",
        "text vectors of more than one class",
        several_classes(VECTORS),
        switches.other_text(switches.exchanged),
    ),
    Knockout(
        "text-random",
        "text vectors of random direction",
        "a TextSemantics row with text vectors",
        VECTORS,
        switches.other_text(switches.drawn),
    ),
    Knockout(
        "semantics-constant",
        "all classes share one text semantics T",
        "a TextSemantics row of more than one class",
        several_classes(of(TextSemantics)),
        switches.semantics_constant,
    ),
    Knockout(
        "class-text-off",
        "text says nothing in the class logits",
        "a head with text",
        of(TextLogits),
        switches.class_text_off,
    ),
    Knockout(
        "hub-constant",
        "hub output replaced by its mean",
        "a FeatureAggregation row",
        hub_outputs,
        switches.constant(hub_outputs),
    ),
    Knockout(
        "attention-off",
        "head attention weighs everything by 1",
        "a head with attention",
        head_attentions,
        switches.attention_off,
    ),
    Knockout(
        "attention-constant",
        "head attention replaced by its mean",
        "a head with attention",
        head_attentions,
        switches.attention_constant,
    ),
    Knockout(CONTROL, "nothing switched off", "nothing", lambda net: [net], switches.nothing),
)
KNOCKOUTS: dict[str, Knockout] = {k.name: k for k in _ALL}


def applicable(net: nn.Module, only: list[str] | None = None) -> tuple[list[Knockout], list[str]]:
    """Return the entries that apply to a network, and a note on each that does not.

    Args:
        net: The network.
        only: Names to choose from; all where omitted.
    """
    chosen = [k for k in _ALL if only is None or k.name in only]
    fitting = [k for k in chosen if k.find(net)]
    return fitting, [f"{k.name} does not apply: the model has not {k.needs}" for k in chosen if k not in fitting]
