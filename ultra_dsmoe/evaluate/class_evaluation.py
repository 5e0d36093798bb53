"""Run the validator of classifiers, ours or stock, and keep what the net says of each image."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ultralytics.data import build_dataloader

from ultra_dsmoe.causes import reading
from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.hits import demo
from ultra_dsmoe.data.pairs import PairDataset, require_classes
from ultra_dsmoe.data.reference.choice import KEY
from ultra_dsmoe.data.reference.spec import is_nothing
from ultra_dsmoe.data.source import NETWORK_SHARE
from ultra_dsmoe.errors import ConfigError, DataError, WeightsError
from ultra_dsmoe.evaluate.class_stats import ClassStats
from ultra_dsmoe.evaluate.controls import images_of
from ultra_dsmoe.evaluate.evaluation import NEEDS, Evaluation, checked_device, quiet
from ultra_dsmoe.evaluate.pair_validator import PairValidator
from ultra_dsmoe.evaluate.reference_choice import without_row
from ultra_dsmoe.model.classifier import IMGSZ, PairModel
from ultra_dsmoe.nn.fusion.split_text import WITH_TEXT

BATCH = 16  # images, the host's


class ClassCollector(PairValidator):
    """The validator of our classifiers, which serves stock ones too, keeping the probabilities.

    ``begin`` is called when the first real batch is about to come, after the host has fused, moved and warmed up the
    network. ``images`` is a data set that an earlier pass has made.
    """

    def __init__(self, begin: Callable[[], object] | None = None, images: Any = None, **kwargs: Any) -> None:
        """Build the validator; ``kwargs`` are the host's (dataloader, save_dir, args)."""
        super().__init__(**kwargs)
        self.begin, self.made = begin, images

    def build_dataset(self, img_path: str) -> Any:
        """Build the data set, or take the one that is there: texts are encoded once for all passes."""
        if self.made is None:
            self.made = super().build_dataset(img_path)
        elif isinstance(self.made, PairDataset):
            self.data["channels"] = WITH_TEXT  # of what the host warms a GPU up with
        return self.made

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
        if self.begin is not None:
            self.begin()

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


class ClassEvaluation:
    """One classifier of ours and one split of a set, ready for any number of passes.

    Attributes:
        path: The checkpoint.
        net: Its network, in evaluation mode; the first pass fuses it and moves it to the device.
        split: Which images.
        args: The host's.
    """

    def __init__(self, yolo: Any, options: dict[str, Any]) -> None:
        """Check everything that can be checked before the first image is read.

        Args:
            yolo: The opened checkpoint.
            options: Checked arguments, see `ultra_dsmoe.commands.arguments.evaluation_options`; what is not given
                comes from the checkpoint (``data``, ``imgsz``) or the host's defaults.

        Raises:
            WeightsError: If the checkpoint holds a stock network.
            ConfigError: If there is no such device or no set is named.
            DataError: If the set lacks a split or has other classes.
        """
        self.path = Path(options["model"])
        if not isinstance(yolo.model, PairModel):
            got = f"{self.path}, a {type(yolo.model).__name__} of Ultralytics' layers alone"
            raise WeightsError("model", "a classifier with layers of ultra-dsmoe, such as yolov8n-pfa-cls", got)
        self.net, trained = yolo.model.float().eval(), dict(yolo.overrides)
        self.split = options.get("split", "val")
        root = _root(options.get("data"), trained.get("data"))
        self.args: dict[str, Any] = {"imgsz": trained.get("imgsz", IMGSZ), "batch": BATCH}
        self.args |= {k: options[k] for k in ("imgsz", "batch", "device") if k in options}
        self.args |= {"model": str(self.path), "data": str(root), "split": self.split}
        checked_device(self.args.get("device"))
        # The host makes a set of its own out of a folder without a training half.
        require_classes(root / "train" if (root / "train").is_dir() else None, "train")
        names, found = list(self.net.names.values()), images_of(root, self.split)[2]
        if found != names:
            wanted = f"the classes of the model in {self.split}/ ({', '.join(names)})"
            raise DataError("data", wanted, ", ".join(found))
        self._images: Any = None

    def run(self, switch: AbstractContextManager[Any] | None = None) -> ClassStats:
        """Validate once, with ``switch`` in force while images are computed."""
        with ExitStack() as stack:
            force = nullcontext() if switch is None else switch
            collector = _collected(self.net, self.args, lambda: stack.enter_context(force), self._images)
        self._images = collector.made
        return collector.images()


def _root(named: Any, remembered: Any) -> Path:
    """Return the folder of a set: the user's, drawn where it is the embedded one, else that of the training.

    Raises:
        ConfigError: If there is none.
    """
    if named:
        root = packaged.place_of(str(named))
        if str(named) == demo.NAME:
            demo.provide(root)
        return root
    text = str(remembered or "")
    if text and not text.startswith(NETWORK_SHARE) and (root := packaged.place_of(text)).is_dir():
        return root
    raise ConfigError("data", "the folder of a classification set (that of the training is not on this disk)", "none")


def open_checkpoint(path: str | Path, argument: str = "model") -> Any:
    """Return what a checkpoint holds, as a ``YOLO`` object.

    Raises:
        WeightsError: If it is none.
    """
    from ultralytics import YOLO

    if not Path(path).is_file():  # the host would go and try to download it
        raise WeightsError(argument, "an existing checkpoint", f"{path}, which is not a file")
    with quiet(), reading(argument, "a readable checkpoint", WeightsError, path):
        return YOLO(path)


def evaluation_of(options: dict[str, Any], needs: str = NEEDS) -> Evaluation | ClassEvaluation:
    """Return a checkpoint with its data, of a detector or of a classifier.

    Args:
        options: Checked arguments, see `ultra_dsmoe.commands.arguments.evaluation_options`.
        needs: What a network must have, for the error.

    Raises:
        DSMoEError: If checkpoint, device or data cannot be used.
    """
    path = Path(options["model"])
    if path.suffix == ".pt" and (yolo := open_checkpoint(path)).task == "classify":
        if not is_nothing(options.get(KEY)):
            raise without_row(str(path), options[KEY])
        return ClassEvaluation(yolo, options)
    return Evaluation(options, needs)


def evaluate(net: torch.nn.Module, args: dict[str, Any]) -> ClassStats:
    """Validate a classifier once.

    Args:
        net: The network.
        args: The host's, with ``model``, ``data`` and ``split``.
    """
    return _collected(net, args).images()


def _collected(
    net: torch.nn.Module, args: dict[str, Any], begin: Callable[[], object] | None = None, images: Any = None
) -> ClassCollector:
    """Return the validator behind one validation; arguments as of `evaluate` and `ClassCollector`."""
    args = {**args, "task": "classify", "mode": "val", "plots": False}
    with TemporaryDirectory() as folder, quiet():
        collector = ClassCollector(begin, images, dataloader=None, save_dir=Path(folder), args=args)
        collector(model=net.float().eval())
    return collector
