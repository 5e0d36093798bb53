"""Validation with a known-good picture beside every image, and what became of the references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ultralytics.models.yolo.detect import DetectionValidator

from ultra_dsmoe.data.reference import in_force
from ultra_dsmoe.data.reference.pairing import images_alone
from ultra_dsmoe.data.reference.references import References
from ultra_dsmoe.evaluate.reference_choice import entry_of, missing
from ultra_dsmoe.evaluate.reference_log import FILE, ReferenceLog
from ultra_dsmoe.runtime.reference_entry import ReferenceEntry


class ReferenceValidator(DetectionValidator):
    """The host's validator for detectors of ours; of one with a `Reference` row it also reports the references.

    The pairs come from the host's own data set, see `ReferenceDataset`.

    Attributes:
        entry: What the net or file says about references, None where it takes none.
        references: Those of the call.
        log: What became of them.
    """

    entry: ReferenceEntry | None = None
    references: References
    log: ReferenceLog
    save_dir: Any  # the host's, for the type checker
    training: Any

    def __call__(self, trainer: Any = None, model: Any = None, **kwargs: Any) -> Any:
        """Validate as the host does; arguments are the host's.

        Raises:
            ConfigError: If the detector compares and no references are in force.
        """
        wants = trainer is None and entry_of(model if model is not None else self.args.model) is not None
        if wants and in_force.current() is None:
            raise missing(str(self.args.model))
        return super().__call__(trainer, model, **kwargs)

    def init_metrics(self, model: torch.nn.Module) -> None:
        """Begin to count."""
        super().init_metrics(model)
        references = None if self.training else in_force.current()
        self.entry = None
        if references is not None:
            net = getattr(model, "model", None)  # of the host's backend; a file has none of ours
            self.entry = entry_of(net) or entry_of(str(self.args.model))
        if references is not None and self.entry is not None:
            self.references = references
            file = Path(self.save_dir) / FILE
            file.unlink(missing_ok=True)  # of an earlier run in the same folder
            self.log = ReferenceLog(self.entry.mismatch_limit, file)

    def update_metrics(self, preds: list[dict[str, torch.Tensor]], batch: dict[str, Any]) -> None:
        """Count a batch as the host does, and its references."""
        super().update_metrics(preds, batch)
        for file in batch["im_file"] if self.entry is not None else ():
            self.log.add(str(file), self.references.report(file))

    def plot_val_samples(self, batch: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Plot the images of a batch as the host does, without their references; arguments are the host's."""
        super().plot_val_samples(self._shown(batch), *args, **kwargs)

    def plot_predictions(self, batch: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Plot what was found in a batch as the host does, without references; arguments are the host's."""
        super().plot_predictions(self._shown(batch), *args, **kwargs)

    def _shown(self, batch: dict[str, Any]) -> dict[str, Any]:
        return batch if self.entry is None else images_alone(batch, self.entry.channels)

    def print_results(self) -> None:
        """Print the host's table, and below it the line about the references."""
        super().print_results()
        if self.entry is not None:
            self.log.finish()
