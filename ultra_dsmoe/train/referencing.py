"""What a trainer needs to train on pairs: references of its data, a net with the row for them, and what it learns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from ultralytics.nn.tasks import yaml_model_load
from ultralytics.utils import LOGGER, RANK

from ultra_dsmoe.data.reference.choice import KEY, SECTION, chosen
from ultra_dsmoe.data.reference.in_force import attach, in_force
from ultra_dsmoe.data.reference.references import References
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.model.reference_row import converted, with_reference
from ultra_dsmoe.nn.reference.reference import Reference

if TYPE_CHECKING:
    from ultralytics.models.yolo.detect import DetectionTrainer

    Base = DetectionTrainer
else:
    Base = object

PARTS = ("backbone", "head")  # of a model YAML
LOOKED_AT = 200  # training images whose mismatch is measured
USUAL, MARGIN = 0.99, 1.25  # the limit is this quantile of theirs times this (our choice)


class Referencing(Base):
    """Mixin before `DetectionTrainer`: data with references has pairs, and its net a `Reference` row in front.

    Attributes:
        references: Of the data set, None where it has none.
    """

    references: References | None = None

    def get_dataset(self) -> Any:
        """Read the data set as the host does, and where its references are."""
        data: dict[str, Any] = super().get_dataset()
        key = getattr(self.args, KEY, None)
        spec = chosen(data, Path(data["path"]), key)
        if spec is not None:
            self.references = References(spec, data.get("channels", 3))
        elif data.get(SECTION) and RANK in {-1, 0}:
            LOGGER.info(f"reference: {SECTION}: of {self.args.data} is not used ({KEY}={key}), images go alone")
        return attach(data, self.references)

    def paired(self, cfg: str | dict[str, Any], weights: Any) -> tuple[str | dict[str, Any], Any]:
        """Return model YAML and weights of a net that suits the data: with the row where it has references.

        Raises:
            ConfigError: If the net compares with references and the data has none.
        """
        table = cfg if isinstance(cfg, dict) else yaml_model_load(cfg)
        has_row = any(row[2] == Reference.__name__ for row in table.get("backbone") or () if len(row) > 2)
        if self.references is None:
            if has_row:
                expected = f"{SECTION}: in the data YAML, or {KEY}=, for a net that compares images with references"
                raise ConfigError(SECTION, expected, f"{self.args.data} without")
            return cfg, weights
        if has_row:
            return cfg, weights
        paired = with_reference(table, channels=self.references.channels)
        if RANK in {-1, 0}:
            name = Path(str(table.get("yaml_file", "the net"))).name
            LOGGER.info(
                f"reference: {name} gets a Reference row in front, which compares each image with its known-good "
                "picture; all other rows, and those of freeze=, move by one"
            )
        if isinstance(weights, nn.Module) and all(weights.yaml.get(part) == table.get(part) for part in PARTS):  # type: ignore[union-attr, operator]
            weights = converted(weights, self.references.channels)
        return paired, weights

    def remember_references(self, net: Any) -> None:
        """Write into a net how it is trained with references; what the mismatch limit is, the images will show."""
        if self.references is not None:
            known = {"spec": self.references.spec.state(), "channels": self.references.channels}
            net.reference_info = {**known, "form": net.model[0].form, "limit": None}

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """Build the host's data set; the pairs of a training show what mismatch is usual."""
        dataset = super().build_dataset(img_path, mode, batch)
        net: Any = self._net()  # type: ignore[attr-defined]  # of the trainer
        if mode == "train" and self.references is not None and net.reference_info["limit"] is None:
            net.reference_info["limit"] = usual_mismatch(self.references, dataset.im_files)
        return dataset

    def plot_training_samples(self, batch: dict[str, Any], ni: int) -> None:
        """Plot the images of a batch as the host does, without their references."""
        if self.references is not None:
            batch = {**batch, "img": batch["img"][:, : self.references.channels]}
        super().plot_training_samples(batch, ni)

    def final_eval(self) -> None:
        """Validate the best checkpoint as the host does, which reads the data anew, with its references."""
        with in_force(self.references):
            super().final_eval()


def usual_mismatch(references: References, images: list[str]) -> float | None:
    """Return a limit above which a pair matches worse than those of a training, None where no image has a reference.

    Args:
        references: Of the training.
        images: Its files, of which some are looked at, spread over all.
    """
    chosen_images = images[:: max(1, len(images) // LOOKED_AT)]
    scores = [score for image in chosen_images if (score := references.load(image).mismatch) is not None]
    return min(1.0, MARGIN * float(np.quantile(scores, USUAL))) if scores else None
