"""Validation of classifiers of ours: macro F1 decides, and images carry their texts where the net wants them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.models.yolo.classify import ClassificationValidator
from ultralytics.utils import LOGGER
from ultralytics.utils.metrics import ClassifyMetrics

from ultra_dsmoe.data.pairs import PairDataset, require_classes, require_room
from ultra_dsmoe.evaluate.class_metrics import counts, f1_scores, macro_f1, recalls
from ultra_dsmoe.model.pair_state import texts_of
from ultra_dsmoe.nn.fusion.split_text import WITH_TEXT

MACRO_F1 = "metrics/macro_f1"


class PairMetrics(ClassifyMetrics):
    """The host's accuracies, with macro F1 beside them, which is the fitness."""

    def __init__(self, classes: int = 0) -> None:
        """Begin with nothing counted."""
        super().__init__()
        self.table = np.zeros((classes, classes), dtype=np.int64)

    def process(self, targets: list[torch.Tensor], pred: list[torch.Tensor]) -> None:
        """Count; arguments are the host's."""
        super().process(targets, pred)
        first = torch.cat(pred)[:, 0].numpy()
        self.table = counts(torch.cat(targets).numpy(), first, len(self.table))

    @property
    def macro_f1(self) -> float:
        """Unweighted mean of the classes' F1."""
        return macro_f1(self.table) if len(self.table) else 0.0

    @property
    def fitness(self) -> float:
        """What the best checkpoint is best in: macro F1."""
        return self.macro_f1

    @property
    def keys(self) -> list[str]:
        """Names of the columns of results.csv."""
        return [*super().keys, MACRO_F1]

    @property
    def results_dict(self) -> dict[str, float]:
        """The columns' values, and the fitness."""
        return dict(zip([*self.keys, "fitness"], [self.top1, self.top5, self.macro_f1, self.fitness], strict=True))

    def summary(self, normalize: bool = True, decimals: int = 5) -> list[dict[str, float]]:
        """Return the host's row with macro F1; arguments are the host's."""
        row = {"top1_acc": self.top1, "top5_acc": self.top5, "macro_f1": self.macro_f1}
        return [{name: round(float(value), decimals) for name, value in row.items()}]


class PairValidator(ClassificationValidator):
    """The host's validator for `PairModel` and files exported from it."""

    metrics: PairMetrics
    data: Any  # the host's attributes, for the type checker
    nc: Any
    names: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Prepare as the host does; arguments are the host's."""
        super().__init__(*args, **kwargs)
        self.metrics = PairMetrics()

    def __call__(self, trainer: Any = None, model: Any = None, **kwargs: Any) -> Any:
        """Validate as the host does; arguments are the host's."""
        if trainer is None:
            self.texts = texts_of(model if model is not None else self.args.model)
        return super().__call__(trainer, model, **kwargs)

    def init_metrics(self, model: torch.nn.Module) -> None:
        """Begin to count."""
        super().init_metrics(model)
        self.metrics.table = np.zeros((self.nc, self.nc), dtype=np.int64)

    def build_dataset(self, img_path: str) -> Any:
        """Build the host's data set; its images carry their texts where the net wants them.

        Raises:
            DSMoEError: If the split has no class, texts are missing or images too small to carry them.
        """
        require_classes(img_path, self.args.split)
        dataset = super().build_dataset(img_path)
        if self.texts is None or not dataset.samples:
            return dataset
        self.data["channels"] = WITH_TEXT  # of what the host warms a GPU up with
        require_room(self.texts.size, _size(self.args.imgsz))
        return PairDataset(dataset, *self.texts.encode([Path(sample[0]) for sample in dataset.samples]))

    def get_desc(self) -> str:
        """Return the head of the table."""
        return ("%22s" + "%11s" * 3) % ("classes", "top1_acc", "top5_acc", "macro_f1")

    def print_results(self) -> None:
        """Print the table, with each class's row where there are no trainings around it."""
        LOGGER.info(("%22s" + "%11.3g" * 3) % ("all", self.metrics.top1, self.metrics.top5, self.metrics.macro_f1))
        if self.training or not self.args.verbose or self.nc < 2:
            return
        LOGGER.info(("%22s" + "%11s" * 3) % ("class", "images", "recall", "f1"))
        table = self.metrics.table
        for i, (recall, f1) in enumerate(zip(recalls(table), f1_scores(table), strict=True)):
            LOGGER.info(("%22s" + "%11i" + "%11.3g" * 2) % (self.names[i], table[i].sum(), recall, f1))


def _size(imgsz: Any) -> tuple[int, int]:
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else tuple(imgsz)[:2]
    return int(height), int(width)
