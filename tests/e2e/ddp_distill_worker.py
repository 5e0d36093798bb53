"""One of two processes of a distributed distillation on CPUs: ``python ddp_distill_worker.py RANK FOLDER [PRESET]``.

Run by test_ddp_distill; does by hand what the host's trainer does: wrap, forward a batch, end the epoch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel

from ultra_dsmoe.distill import resolve
from ultra_dsmoe.train.distill_wrapper import FeatureDistillation

WORLD, EPOCHS = 2, 2


def make_pair(preset: str) -> FeatureDistillation:
    """Return the pair that all processes start from."""
    torch.manual_seed(0)
    nets: list[Any] = [DetectionModel(f"{name}.yaml", nc=6, verbose=False) for name in ("yolov8n", "yolov8s")]
    nets[0].args = get_cfg()
    return FeatureDistillation(nets[0], nets[1].eval().requires_grad_(False), resolve(preset)).train()


def make_batch(rank: int) -> dict[str, Tensor]:
    """Return the batch of one process."""
    generator = torch.Generator().manual_seed(100 + rank)
    return {
        "img": torch.rand(2, 3, 64, 64, generator=generator) * (rank + 1),
        "cls": torch.randint(6, (4, 1), generator=generator).float(),
        "bboxes": torch.cat([torch.full((4, 2), 0.5), 0.3 + 0.4 * torch.rand(4, 2, generator=generator)], 1),
        "batch_idx": torch.arange(2).repeat_interleave(2).float(),
    }


def main(rank: int, folder: Path, preset: str = "attention") -> None:
    """Do two epochs of one step and save what the other process must agree with."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    pair = make_pair(preset)
    wrapped = DistributedDataParallel(pair, find_unused_parameters=True, broadcast_buffers=False)
    own, grads = [], {}
    optimizer = torch.optim.SGD(pair.parameters(), 0.05)
    for epoch in range(EPOCHS):
        loss, items = wrapped(make_batch(rank))
        loss.sum().backward()
        own.append({k: v.item() for k, v in items.items()})
        if epoch == 0:
            grads = {k: p.grad.clone() for k, p in pair.named_parameters() if p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
        pair.adaptive.end_epoch()
    torch.save({"grads": grads, "items": own, "adaptive": pair.adaptive.state()}, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
