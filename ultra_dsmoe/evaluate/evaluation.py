"""Open a checkpoint and its data set, and run the host's validator over them while keeping what it saw per image."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import LOGGER

from ultra_dsmoe.causes import reading, words
from ultra_dsmoe.data.reference.in_force import in_force
from ultra_dsmoe.data.source import DataSource
from ultra_dsmoe.errors import ConfigError, DataError, DSMoEError, WeightsError
from ultra_dsmoe.evaluate.reference_choice import references_of
from ultra_dsmoe.logs import at_level
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.runtime.reference_entry import KEY

NEEDS = "layers of ultra-dsmoe, such as dsmoe-n or tmodel-n"
NMS_SECONDS, NMS_SECONDS_PER_IMAGE = 2.0, 0.05  # the host's limit, of a batch and of each image in it


@dataclass
class ImageStats:
    """What a validation saw, one entry per image in the order of the loader.

    Attributes:
        files: Image files.
        tp: Whether each detection is right at the 10 IoU thresholds, (D_i, 10).
        conf: Confidences, (D_i,).
        pred_cls: Predicted classes, (D_i,).
        target_cls: Labelled classes, (L_i,).
    """

    files: list[str] = field(default_factory=list)
    tp: list[np.ndarray] = field(default_factory=list)
    conf: list[np.ndarray] = field(default_factory=list)
    pred_cls: list[np.ndarray] = field(default_factory=list)
    target_cls: list[np.ndarray] = field(default_factory=list)


class Collector(DetectionValidator):
    """The host's validator, on the very network it is given, keeping its matches per image.

    ``switch`` is entered on ``stack`` when the first real batch is about to come: after the host has fused, moved and
    warmed the network up, so that neither its dummy input nor its folding of the text meets the hooks.
    """

    def __init__(self, stack: ExitStack, switch: AbstractContextManager[Any], **kwargs: Any) -> None:
        """Build the validator; ``kwargs`` are the host's (dataloader, save_dir, args)."""
        super().__init__(**kwargs)
        self.stack, self.switch, self.images = stack, switch, ImageStats()

    def get_model(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the network itself: hosts that validate a copy would leave our hooks behind."""
        return model

    def init_metrics(self, model: Any) -> None:
        """Prepare the host's metrics, then switch."""
        super().init_metrics(model)
        self.stack.enter_context(self.switch)

    def postprocess(self, preds: Any) -> Any:
        """Suppress overlapping boxes as the host does, which drops the rest of a batch where that takes too long.

        Raises:
            DSMoEError: If it took so long, as on a machine with too much to do: the numbers would be too low.
        """
        begun = time.monotonic()
        found = super().postprocess(preds)
        took, limit = time.monotonic() - begun, NMS_SECONDS + NMS_SECONDS_PER_IMAGE * len(found)
        if took > limit:
            expected = f"at most {limit:.1f} s for the boxes of a batch, since Ultralytics drops images after that"
            raise DSMoEError("NMS", f"{expected} (try a quieter machine or a smaller batch)", f"{took:.1f} s")
        return found

    def update_metrics(self, preds: Any, batch: dict[str, Any]) -> None:
        """Match a batch as the host does and keep its file names."""
        super().update_metrics(preds, batch)
        self.images.files.extend(str(f) for f in batch["im_file"])

    def get_stats(self) -> dict[str, Any]:
        """Keep the matches before the host clears them."""
        for name in ("tp", "conf", "pred_cls", "target_cls"):
            setattr(self.images, name, list(self.metrics.stats[name]))
        return super().get_stats()


class Evaluation:
    """One checkpoint and one split of a data set, ready for any number of passes.

    Attributes:
        path: The checkpoint.
        net: Its network, in evaluation mode; the first pass fuses it and moves it to the device.
        names: Class names in the order of their numbers.
        split: Which images.
        references: Known-good pictures of a net that compares, None of any other.
        groups: The data YAML's ``groups``, which tells images of one board or tile; None where it has none.
    """

    def __init__(self, options: dict[str, Any], needs: str = NEEDS) -> None:
        """Check everything that can be checked before the first image is read.

        Args:
            options: Checked arguments, see `ultra_dsmoe.commands.arguments.evaluation_options`; what is not given
                comes from the checkpoint (``data``, ``imgsz``) or the host's defaults.
            needs: What a network must have, for the error.

        Raises:
            WeightsError: If the checkpoint is missing, damaged or holds another network.
            ConfigError: If there is no such device or no data set is named.
            DataError: If the data set is incomplete or has other classes.
            DSMoEError: If the network compares and has nothing to compare with.
        """
        self.path = Path(options["model"])
        self.net, trained = load_network(self.path, needs)
        self.names = list(self.net.names.values())
        self.split = options.get("split", "val")
        source = DataSource.choose(options.get("data"), [trained.get("data")])
        if source is None:
            raise ConfigError("data", "a data YAML (that of the training is not on this disk)", "none")
        source.require_local(self.split)
        data = source.yaml
        self.args: dict[str, Any] = {k: trained[k] for k in ("imgsz", "single_cls") if k in trained}
        self.args.update({k: options[k] for k in ("imgsz", "batch", "device") if k in options})
        self.args.update(task="detect", mode="val", model=str(self.path), data=data, split=self.split)
        self.args.update(plots=False, save_json=False, rect=True)
        checked_device(self.args.get("device"))
        self.references = references_of(self.net, options.get(KEY), source, str(self.path))
        with in_force(self.references):
            content = _checked_data(data, self.split, None if self.args.get("single_cls") else self.names)
        self.groups: Any = content.get("groups")
        self._loader: Any = None

    def device(self) -> torch.device:
        """Return the device that the host chooses for what was asked for."""
        return checked_device(self.args.get("device"))

    def run(self, switch: AbstractContextManager[Any] | None = None) -> ImageStats:
        """Validate once, with ``switch`` in force while images are computed.

        Raises:
            DataError: If the split has no readable image or no labelled object.
        """
        with in_force(self.references), TemporaryDirectory() as folder, ExitStack() as stack, quiet():
            collector = Collector(
                stack,
                nullcontext() if switch is None else switch,
                dataloader=self._loader,
                save_dir=Path(folder),
                args=dict(self.args),
            )
            try:
                collector(model=self.net)
            except FileNotFoundError as e:
                raise DataError("data", f"images in its '{self.split}' split", words(e)) from e
            self._loader = collector.dataloader
        if not sum(len(c) for c in collector.images.target_cls):
            raise DataError("data", f"labelled objects in its '{self.split}' split", "images without a single label")
        return collector.images


def quiet() -> AbstractContextManager[None]:
    """Keep the host's tables and progress bars back; its warnings still appear."""
    return at_level(LOGGER, logging.WARNING)


def load_network(path: Path, needs: str = NEEDS) -> tuple[DSMoEModel, dict[str, Any]]:
    """Return the network of a checkpoint and what it was trained with (``data``, ``imgsz``).

    Args:
        path: The checkpoint.
        needs: What a network must have, for the error.

    Raises:
        WeightsError: If the file is missing, damaged or of a network without a layer of ours.
    """
    from ultralytics import YOLO

    if path.suffix != ".pt":
        raise WeightsError("model", f"a checkpoint (.pt) of a network with {needs}", str(path))
    if not path.is_file():  # the host would go and try to download it
        raise WeightsError("model", "an existing checkpoint", f"{path}, which is not a file")
    with quiet(), reading("model", "a readable checkpoint", WeightsError, path):
        yolo = YOLO(str(path))
    if not isinstance(yolo.model, DSMoEModel):
        got = f"{path}, a {type(yolo.model).__name__} of Ultralytics' layers alone"
        raise WeightsError("model", f"a checkpoint of a network with {needs}", got)
    return yolo.model.float().eval(), dict(yolo.overrides)


def checked_device(device: str | None) -> Any:
    """Return a device of this machine.

    Raises:
        ConfigError: If there is none of this name.
    """
    from ultralytics.utils.torch_utils import select_device

    try:
        with quiet():
            return torch.device(select_device(device or "", verbose=False))
    except (ValueError, RuntimeError) as e:
        raise ConfigError("device", "cpu, or the number of a GPU of this machine", str(device)) from e


def _checked_data(data: str, split: str, names: list[str] | None) -> dict[str, Any]:
    """Return a data YAML; refuse one without images in ``split``, or with another number of classes than ``names``."""
    from ultralytics.data.utils import check_det_dataset

    with quiet(), reading("data", f"a data YAML with images in its '{split}' split"):
        content = check_det_dataset(data)
    places = content.get(split)
    if not places:
        have = ", ".join(s for s in ("train", "val", "test") if content.get(s))
        raise DataError("data", f"a data YAML with a '{split}' split", f"{data} (has {have})")
    for place in places if isinstance(places, list) else [places]:
        if not Path(place).exists():
            raise DataError("data", f"the images of its '{split}' split", f"{place}, which does not exist")
    if names is not None and content["nc"] != len(names):
        raise DataError("data", f"{len(names)} classes as in the model ({', '.join(names)})", f"{content['nc']}")
    return content
