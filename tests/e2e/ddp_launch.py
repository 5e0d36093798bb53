"""Train with the host's own launcher, two workers on CPUs: ``python ddp_launch.py DATA PROJECT KEY=VALUE...``.

The host starts workers for GPUs only, so its trainer is told that there are two devices.
"""

from __future__ import annotations

import sys
from typing import Any

import torch.distributed as dist
from ultralytics.utils import LOCAL_RANK, RANK

from ultra_dsmoe.errors import DataError
from ultra_dsmoe.train.trainer import DSMoETrainer

WORLD = 2


class Distributed(DSMoETrainer):
    """Our trainer, of which every worker believes that it has a device."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.world_size, self.ddp = WORLD, LOCAL_RANK == -1

    def _setup_ddp(self) -> None:
        dist.init_process_group("gloo", rank=RANK, world_size=WORLD)

    def setup_model(self) -> Any:
        """Build the net; with ``seed=1`` the second worker fails while the first waits for it."""
        ckpt = super().setup_model()
        if self.args.seed == 1:
            if RANK == 1:
                raise DataError("labels", "a file that this worker can read", "none")
            dist.barrier()
        return ckpt


if __name__ == "__main__":
    from ddp_launch import Distributed as Importable  # older hosts have their workers import it by name
    from ultralytics import YOLO

    from ultra_dsmoe.plugin.entry import one_line_errors

    data, project, *words = sys.argv[1:]
    keys = {key: int(value) for key, value in (word.split("=") for word in words)}
    with one_line_errors():
        YOLO("dsmoe-n.yaml").train(
            trainer=Importable, data=data, project=project, name="run", imgsz=64, batch=4, epochs=1, device="cpu",
            workers=0, dsmoe_text="hash", **keys,
        )  # fmt: skip
