"""Run the validator of classifiers, ours or stock, and keep what the net says of each image."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ultralytics.data import build_dataloader

from ultra_dsmoe.evaluate.class_stats import ClassStats
from ultra_dsmoe.evaluate.evaluation import quiet
from ultra_dsmoe.evaluate.pair_validator import PairValidator


class ClassCollector(PairValidator):
    """The validator of our classifiers, which serves stock ones too, keeping the probabilities."""

    def get_model(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the network itself."""
        return model

    def get_dataloader(self, dataset_path: Any, batch_size: int) -> Any:
        """Build the loader with the images in the order of the set, which the host shuffles."""
        dataset = self.build_dataset(dataset_path)
        return build_dataloader(dataset, batch_size, self.args.workers, shuffle=False, rank=-1)

    def init_metrics(self, model: torch.nn.Module) -> None:
        """Begin to count and to keep."""
        super().init_metrics(model)
        self.kept: list[np.ndarray] = []
        self.true: list[np.ndarray] = []

    def update_metrics(self, preds: torch.Tensor, batch: dict[str, Any]) -> None:
        """Count a batch and keep it."""
        super().update_metrics(preds, batch)
        self.kept.append(preds.float().cpu().numpy())
        self.true.append(batch["cls"].cpu().numpy())

    def images(self) -> ClassStats:
        """Return what was seen."""
        samples: Any = self.dataloader.dataset.samples  # type: ignore[union-attr]  # there after a validation
        names = [str(self.names[i]) for i in sorted(self.names)]
        probabilities, target = np.concatenate(self.kept), np.concatenate(self.true)
        assert [sample[1] for sample in samples] == target.tolist(), "the loader changed the order of the images"
        files = [str(sample[0]) for sample in samples]
        return ClassStats(files, names, target, probabilities.argmax(1), probabilities)


def evaluate(net: torch.nn.Module, args: dict[str, Any]) -> ClassStats:
    """Validate a classifier once.

    Args:
        net: The network.
        args: The host's, with ``model``, ``data`` and ``split``.
    """
    args = {**args, "task": "classify", "mode": "val", "plots": False}
    with TemporaryDirectory() as folder, quiet():
        collector = ClassCollector(dataloader=None, save_dir=Path(folder), args=args)
        collector(model=net.float().eval())
    return collector.images()
