"""What a trainer needs to train on pairs: references of its data, a net with the row for them, and what it learns."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from ultralytics.data.base import BaseDataset
from ultralytics.nn.tasks import yaml_model_load
from ultralytics.utils import LOGGER, RANK

from ultra_dsmoe.data.reference.choice import KEY, SECTION, chosen
from ultra_dsmoe.data.reference.in_force import attach, in_force
from ultra_dsmoe.data.reference.pairing import images_alone
from ultra_dsmoe.data.reference.references import References
from ultra_dsmoe.data.reference.registration import MISMATCH_LIMIT
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.logs import at_level
from ultra_dsmoe.model.reference_row import converted, with_reference
from ultra_dsmoe.nn.reference.reference import Reference

if TYPE_CHECKING:
    from ultralytics.models.yolo.detect import DetectionTrainer

    Base = DetectionTrainer
else:
    Base = object

PARTS = ("backbone", "head")  # of a model YAML
PLOTS = ("plot_val_samples", "plot_predictions")  # of the host's validator
# The limit lies this part of the way from this quantile of the training's pairs to 1, pictures without anything in
# common (our choice; on DeepPCB 0.28, where pairs reach 0.07 and those of other boards begin at 0.82).
MARGIN, USUAL = 0.25, 0.95


class Referencing(Base):
    """Mixin before `DetectionTrainer`: data with references has pairs, and its net a `Reference` row in front.

    Attributes:
        references: Of the data set, None where it has none.
    """

    references: References | None = None

    def get_dataset(self) -> Any:
        """Read the data set as the host does, and where its references are, all of which must be there.

        Raises:
            DSMoEError: If they are not, or cannot be used.
        """
        data: dict[str, Any] = super().get_dataset()
        key = getattr(self.args, KEY, None)
        spec = chosen(data, Path(data["path"]), key)
        if spec is not None:
            self.references = References(spec, data.get("channels", 3))
            self.references.require([*self._images(data, "train"), *self._images(data, self.args.split)])
        elif data.get(SECTION) and RANK in {-1, 0}:
            LOGGER.info(f"reference: {SECTION}: of {self.args.data} is not used ({KEY}={key}), images go alone")
        return attach(data, self.references)

    def _images(self, data: dict[str, Any], split: str) -> list[str]:
        """Return the files of a split that the host will read, but for damaged ones, which it leaves out."""
        fraction: Any = self.args.fraction
        if not isinstance(fraction, (list, tuple)):
            fraction = [fraction]
        share = dict(zip(("train", "val", "test"), fraction, strict=False)).get(split, 1.0)
        known: Any = SimpleNamespace(prefix=f"{split}: ", fraction=1.0 if share == 1 else share)
        with at_level(LOGGER, logging.WARNING):  # the host says the same when it builds the data set
            return BaseDataset.get_img_files(known, data[split])

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
        super().plot_training_samples(self._images_alone(batch), ni)

    def get_validator(self) -> Any:
        """Return the host's validator, which plots images without their references."""
        validator: Any = super().get_validator()
        if self.references is not None:
            for name in PLOTS:
                setattr(validator, name, self._on_images_alone(getattr(validator, name)))
        return validator

    def _on_images_alone(self, plot: Callable[..., None]) -> Callable[..., None]:
        """Return a method that plots a batch, for batches of pairs."""
        return lambda batch, *args, **kwargs: plot(self._images_alone(batch), *args, **kwargs)

    def _images_alone(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a batch without references."""
        return batch if self.references is None else images_alone(batch, self.references.channels)

    def final_eval(self) -> None:
        """Validate the best checkpoint as the host does, which reads the data anew, with its references."""
        with in_force(self.references):
            super().final_eval()


def usual_mismatch(references: References, images: list[str]) -> float | None:
    """Return a limit above which a pair matches far worse than a training's do, None where no image has a reference.

    Args:
        references: Of the training, which has measured them.
        images: Its files.
    """
    scores = [score for image in images if (score := references.mismatch(image)) is not None]
    if not scores:
        return None
    # Pairs of different products must not teach the net that such pairs are usual.
    alike = [score for score in scores if score <= MISMATCH_LIMIT]
    if len(alike) < len(scores) and RANK in {-1, 0}:
        LOGGER.warning(
            f"reference: {1 - len(alike) / len(scores):.0%} of the training's pairs have a mismatch above "
            f"{MISMATCH_LIMIT:g}, as pictures of different products have ('dsmoe-yolo reference preview' draws them)"
        )
    if not alike:
        return MISMATCH_LIMIT
    usual = float(np.quantile(alike, USUAL))
    return usual + MARGIN * (1 - usual)
