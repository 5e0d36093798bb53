"""Router health: what the gates did in an epoch, and revival of experts that no image chose."""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.utils import LOGGER

from ultra_dsmoe.nn.neck.expert_gate import UNIVERSAL, ExpertGate
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE

TOKEN_NOISE = 0.1  # of a revived expert's token, relative to its source's spread (our choice)


class RouterMonitor:
    """Read, report and mend the gates of a net at the end of an epoch."""

    def __init__(self, model: nn.Module) -> None:
        """Find the gates of ``model`` and the mixture each of them drives."""
        mixtures = [m for m in model.modules() if isinstance(m, SparseMoE)]
        self.pairs = [(moe.router, moe) for moe in mixtures if moe.router is not None]

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Return the epoch's router columns, revive dead experts and reset the counters.

        Args:
            epoch: Epoch number; with it the same noise is drawn on all workers.

        Returns:
            ``router/usage_max`` (share of images that chose the most used expert), ``router/entropy`` (of the gate, in
            nats), ``router/dead`` (experts no image chose), ``router/temperature``; means over several gates, the dead
            summed. Empty without a gate.
        """
        rows = []
        gates = list(dict.fromkeys(gate for gate, _ in self.pairs))  # a gate may drive several mixtures
        for gate in gates:
            _sum_over_workers(gate.usage, gate.entropy_sum, gate.images)
            images = gate.images.clamp_min(1)
            dead = (gate.usage == 0).nonzero().flatten() if gate.images > 0 else gate.usage.new_zeros(0).long()
            rows.append(
                (
                    float((gate.usage / images).max()),
                    float(gate.entropy_sum / images),
                    len(dead),
                    float(gate.tau.detach()),
                )
            )
            if len(dead):
                revive(gate, [moe for other, moe in self.pairs if other is gate], dead, epoch)
            gate.reset_record()
        if not rows:
            return {}
        usage, entropy, n_dead, taus = zip(*rows, strict=True)
        count = len(rows)
        return {
            "router/usage_max": round(sum(usage) / count, 5),
            "router/entropy": round(sum(entropy) / count, 5),
            "router/dead": sum(n_dead),
            "router/temperature": round(sum(taus) / count, 5),
        }


@torch.no_grad()
def revive(gate: ExpertGate, mixtures: list[SparseMoE], dead: torch.Tensor, epoch: int) -> None:
    """Re-draw experts that stayed unused for an epoch near the most used cross-modal one, and log it.

    What is frozen stays as it is: experts without gradients keep their weights, and where the tokens have none nothing
    is re-drawn at all, since the gate could not come to choose the new experts.
    """
    if not gate.token.requires_grad:
        return
    cross = gate.usage.clone()
    cross[:UNIVERSAL] = 0  # the universal experts have other parameters
    source = int(cross.argmax())
    if cross[source] == 0:  # all cross-modal experts are dead: nothing to learn from
        return
    generator = torch.Generator().manual_seed(epoch)
    for moe in mixtures:
        moe.redraw(dead, source, generator)
    token = gate.token[0]
    noise = torch.randn((len(dead), token.shape[1]), generator=generator).to(token)
    token[dead] = token[source] + TOKEN_NOISE * token[source].std() * noise
    LOGGER.info(f"router: revived {len(dead)} experts unused in epoch {epoch + 1} near expert {source}")


def _sum_over_workers(*buffers: torch.Tensor) -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for buffer in buffers:
            torch.distributed.all_reduce(buffer)
