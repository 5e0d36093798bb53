"""Which gate drives which mixture of a net."""

from __future__ import annotations

from typing import Any

from torch import nn

from ultra_dsmoe.nn.neck.expert_gate import ExpertGate
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE


def driven_by(model: nn.Module) -> list[tuple[ExpertGate, SparseMoE]]:
    """Return every gate with each mixture that it drives: its own gate inside, or a row that it reads."""
    mixtures = [m for m in model.modules() if isinstance(m, SparseMoE)]
    return [
        (gate, moe)
        for gate in (m for m in model.modules() if isinstance(m, ExpertGate))
        for moe in mixtures
        if moe.gate is gate or (moe.gate is None and getattr(gate, "i", None) in _sources(moe))
    ]


def _sources(moe: SparseMoE) -> list[int]:
    """Row numbers that a mixture reads from."""
    row: Any = moe  # the host's parser attaches i and f
    sources = [row.f] if isinstance(row.f, int) else row.f
    return [j + row.i if j < 0 else j for j in sources]
