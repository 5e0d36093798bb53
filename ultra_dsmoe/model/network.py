"""What every network of ours is beside the host's class that it is made of: options, blocks, format, executed work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from ultralytics.utils import LOGGER

from ultra_dsmoe.errors import WeightsError

if TYPE_CHECKING:
    from ultralytics.nn.tasks import BaseModel

    class Base(BaseModel):
        """What the mixin needs of the class that it is mixed into."""

        yaml: dict[str, Any]

else:
    Base = object

CHECKPOINT_FORMAT = 1  # raised when an older package could not read what a newer one writes


class Network(Base):
    """Mixin before one of the host's models."""

    checkpoint_format: int

    @property
    def options(self) -> dict[str, Any]:
        """The model YAML's ``dsmoe:`` section."""
        if self.yaml.get("dsmoe") is None:  # a YAML without the section gets one: `set_topk` writes there
            self.yaml["dsmoe"] = {}
        return self.yaml["dsmoe"]

    def blocks(self, kind: type) -> list[Any]:
        """Return all blocks of a class."""
        return [m for m in self.modules() if isinstance(m, kind)]

    def name_encoder(self, spec: str) -> None:
        """Take the text encoder of the training under a name of the user's; no use to a net that has its vectors."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Refuse a checkpoint that a newer version of this package wrote.

        Raises:
            WeightsError: If it is one.
        """
        written = state.get("checkpoint_format", CHECKPOINT_FORMAT)
        if written > CHECKPOINT_FORMAT:
            raise WeightsError("checkpoint", f"format {CHECKPOINT_FORMAT} or older (upgrade ultra-dsmoe)", f"{written}")
        super().__setstate__(state)

    def gflops(self, imgsz: int | list[int] = 640) -> float:
        """Return the work of one image in GFLOPs (2 x multiply-accumulate), counted while it runs."""
        h, w = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
        p = next(self.parameters())
        training = self.training
        self.eval()
        try:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                self(torch.zeros(1, self.yaml.get("channels", 3), h, w, device=p.device, dtype=p.dtype))
        finally:
            self.train(training)
        return counter.get_total_flops() / 1e9

    def size_note(self) -> str:
        """Return what the line about a net's size adds, such as how many experts run."""
        return ""

    def info(self, detailed: bool = False, verbose: bool = True, imgsz: int | list[int] = 640) -> Any:
        """Print and return layers, parameters, gradients and executed GFLOPs.

        Args:
            detailed: Whether to print every layer, as the host does.
            verbose: Whether to print at all; without, nothing is returned.
            imgsz: Image size for the GFLOPs.
        """
        if not verbose:
            return None
        if detailed:
            super().info(detailed=True, verbose=True, imgsz=imgsz)
        layers = sum(1 for m in self.modules() if not m._modules)
        params = sum(p.numel() for p in self.parameters())
        grads = sum(p.numel() for p in self.parameters() if p.requires_grad)
        flops = self.gflops(imgsz)
        note = self.size_note()
        name = str(self.yaml.get("yaml_file", "")).rsplit("/", 1)[-1].removesuffix(".yaml") or type(self).__name__
        LOGGER.info(
            f"{name} summary{' (fused)' if self.is_fused() else ''}: {layers:,} layers, {params:,} parameters, "
            f"{grads:,} gradients, {flops:.1f} GFLOPs{f' ({note})' if note else ''}"
        )
        return layers, params, grads, flops
