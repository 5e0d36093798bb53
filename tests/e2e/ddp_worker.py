"""One of two processes of a distributed step on CPUs: ``python ddp_worker.py RANK FOLDER``, run by test_ddp.

The host's own launcher needs GPUs, so this does by hand what its trainer does: wrap, forward a batch, end the epoch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from ultralytics.cfg import get_cfg

from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate
from ultra_dsmoe.train.router_health import RouterMonitor

WORLD = 2


def make_net() -> DSMoEModel:
    """Return the net that all processes start from."""
    torch.manual_seed(0)
    net = DSMoEModel("dsmoe-n.yaml", nc=6, verbose=False)
    net.args = get_cfg()
    return net.train()


def make_batch(rank: int) -> dict[str, Tensor]:
    """Return the batch of one process."""
    generator = torch.Generator().manual_seed(100 + rank)
    return {
        "img": torch.rand(3, 3, 64, 64, generator=generator),
        "cls": torch.randint(6, (6, 1), generator=generator).float(),
        "bboxes": torch.cat([torch.full((6, 2), 0.5), 0.3 + 0.4 * torch.rand(6, 2, generator=generator)], 1),
        "batch_idx": torch.arange(3).repeat_interleave(2).float(),
    }


def main(rank: int, folder: Path) -> None:
    """Do the step and save what the other process must agree with."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    net = make_net()
    wrapped = DistributedDataParallel(net, find_unused_parameters=True, broadcast_buffers=False)
    loss, _ = wrapped(make_batch(rank))
    loss.sum().backward()
    (gate,) = net.blocks(ExpertGate)
    saved = {
        "grads": {k: p.grad for k, p in net.named_parameters() if p.grad is not None},
        "usage": gate.usage.clone(),
    }
    saved["columns"] = RouterMonitor(net).end_epoch(0)
    saved["tokens"], saved["experts"] = gate.token.detach(), [p.detach() for p in net.model[18].cross.parameters()]
    torch.save(saved, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
