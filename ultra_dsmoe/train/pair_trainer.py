"""Trainer of classifiers that texts teach: the host's, with the texts of the images and the phases of the training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.data.augment import classify_transforms
from ultralytics.models.yolo.classify import ClassificationTrainer
from ultralytics.utils import DEFAULT_CFG, LOGGER, RANK

from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.hits import demo
from ultra_dsmoe.data.pairs import PairDataset, require_classes, require_room
from ultra_dsmoe.data.stage_sampler import StageSampler
from ultra_dsmoe.errors import ConfigError, DSMoEError
from ultra_dsmoe.evaluate.pair_validator import PairValidator
from ultra_dsmoe.model import torchvision_weights
from ultra_dsmoe.model.classifier import PairModel
from ultra_dsmoe.model.pair_criterion import NAMES
from ultra_dsmoe.model.pair_text import PairText
from ultra_dsmoe.model.pretrained import EncoderFile
from ultra_dsmoe.nn.head.pair_classify import FUSION
from ultra_dsmoe.train.checkpoints import Checkpoints
from ultra_dsmoe.train.optimizer import regroup, without_misfits
from ultra_dsmoe.train.pair_phases import PairPhases
from ultra_dsmoe.train.run_folder import RunFolder
from ultra_dsmoe.train.worker_errors import WorkerErrors

LEAST = 2  # training images of a class, below which a warning says so


class PairTrainer(WorkerErrors, RunFolder, Checkpoints, PairPhases, ClassificationTrainer):
    """The host's classification trainer for `PairModel`."""

    texts: PairText | None = None
    _read: Any = None  # the training images as the host read them for the texts: with cache=ram a second look is dear
    loss_names: Any  # the host's attribute, for the type checker

    def __init__(self, cfg: Any = DEFAULT_CFG, overrides: dict[str, Any] | None = None, _callbacks: Any = None) -> None:
        """Settle arguments, run folder and data as the host does; arguments are the host's."""
        if isinstance(given := (overrides or {}).get("pretrained"), EncoderFile):
            overrides = {**(overrides or {}), "pretrained": str(given)}  # from here on as text, so that it can be saved
        super().__init__(cfg, overrides, _callbacks)
        self.loss_names = NAMES  # older hosts know one loss alone

    def get_dataset(self) -> Any:
        """Read the data set as the host does; the embedded one is drawn where it is missing.

        Raises:
            ConfigError: If an argument has no meaning for this training.
            DataError: If there is nothing to train or to validate on.
        """
        for key, wanted in (("time", "epochs=, of which the phases are shares"), ("single_cls", "False")):
            if value := getattr(self.args, key, None):
                raise ConfigError(key, wanted, value)
        if str(self.args.data) == demo.NAME:
            demo.provide(packaged.place_of(demo.NAME))
        data = super().get_dataset()
        require_classes(data.get("train"), "train")
        require_classes(data.get("val") or data.get("test"), "val")
        return data

    def get_model(
        self, cfg: str | dict[str, Any] | None = None, weights: nn.Module | None = None, verbose: bool = True
    ) -> PairModel:
        """Build the net for the data set: as wide as its texts are, then the weights.

        Args:
            cfg: Model YAML, path or dictionary.
            weights: Net to load weights from.
            verbose: Whether to print the rows.

        Raises:
            DSMoEError: If model YAML, texts, weights or keys do not suit each other; no run folder remains.
        """
        try:
            return self._build(cfg, weights, verbose)
        except DSMoEError:
            self.discard_run()
            raise

    def _build(self, cfg: Any, weights: nn.Module | None, verbose: bool) -> PairModel:
        plan = PairModel(cfg or "pfa-cls.yaml", nc=self.data["nc"], verbose=False)
        state = weights.pair_text if isinstance(weights, PairModel) else None
        if self.resume and state is not None:
            self.texts = PairText.from_state(state)
        else:
            self.texts = self._fit(plan)
        section = {**plan.options, "text_width": self.texts.width, "text_numbers": len(self.texts.keys)}
        model = PairModel({**plan.yaml, "dsmoe": section}, nc=self.data["nc"], verbose=verbose and RANK == -1)
        model.names = self.data["names"]
        model.pair_text = self.texts.state()
        if weights:
            model.load(weights)
            if self.resume:
                model.pair_order = getattr(weights, "pair_order", None)
        for m in model.modules():
            if isinstance(m, nn.Dropout) and self.args.dropout:
                m.p = self.args.dropout
        return model

    def _fit(self, net: PairModel) -> PairText:
        """Learn how images get their texts, from the training half alone."""
        self._read = super().build_dataset(self.data["train"], "train")
        images = [Path(sample[0]) for sample in self._read.samples]
        options = net.pair_options
        provider, encoder = self.args.dsmoe_provider or "rules", self.args.dsmoe_text or "auto"
        texts = PairText.fit(images, provider, encoder, numbers=options.numbers, control=options.control)
        if RANK in {-1, 0}:
            LOGGER.info(f"texts: {texts.source.provider.id}, encoder {texts.encoder}, {texts.width} numbers each")
        return texts

    def setup_model(self) -> Any:
        """Build or load the net as the host does; torchvision's weights go to its encoder.

        Raises:
            DSMoEError: If weights are missing or do not suit the net; no run folder remains.
        """
        given = self.args.pretrained
        named = None if self.resume else torchvision_weights.named(given)
        if named:
            self.args.pretrained = True  # the host would look for a whole net in them
        try:
            ckpt = super().setup_model()
            if named:
                torchvision_weights.load(self.net(), named)
        except DSMoEError:
            self.discard_run()
            raise
        finally:
            self.args.pretrained = given
        return ckpt

    def build_dataset(self, img_path: str, mode: str = "train", batch: Any = None) -> Any:
        """Build the host's data set without its augmentations, which a text does not follow, and join the texts.

        Raises:
            DSMoEError: If texts are missing or images too small to carry them; no run folder remains.
        """
        dataset, self._read = (self._read, None) if mode == "train" else (None, self._read)
        dataset = dataset or super().build_dataset(img_path, mode)
        dataset.torch_transforms = classify_transforms(size=self.args.imgsz)
        self._warn_of_rare(dataset.samples, mode)
        if (mode != "train" and not self.net().wants_text) or not dataset.samples:
            return dataset
        assert self.texts is not None  # since the net was built
        try:
            require_room(self.texts.size, (self.args.imgsz, self.args.imgsz))
            return PairDataset(dataset, *self.texts.encode([Path(sample[0]) for sample in dataset.samples]))
        except DSMoEError:
            self.discard_run()
            raise

    def _warn_of_rare(self, samples: list[Any], mode: str) -> None:
        """Say which classes have too few images: one cannot be learned from a single image, nor be measured without."""
        if RANK not in {-1, 0}:
            return
        found = Counter(sample[1] for sample in samples)
        least = LEAST if mode == "train" else 1
        rare = [f"{name} ({found[i]})" for i, name in self.data["names"].items() if found[i] < least]
        if rare:
            why = "too few to learn it from" if mode == "train" else "so that macro F1 counts it as 0"
            LOGGER.warning(f"{mode}: fewer than {least} image{'s' * (least > 1)} of {', '.join(rare)}, {why}")

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """Build the host's loader; in training it takes the images of the stage, see `StageSampler`."""
        loader: Any = super().get_dataloader(dataset_path, batch_size, rank, mode)
        if mode == "train":
            world = max(self.world_size, 1)
            self.sampler = StageSampler(len(loader.dataset), batch_size, self.args.seed, max(rank, 0), world)
            loader.batch_sampler.sampler.sampler = self.sampler
            loader.reset()
        return loader

    def preprocess_batch(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Move a batch to the device, with what the alignment needs of it."""
        batch = super().preprocess_batch(batch)
        for key in ("groups", "turn"):
            batch[key] = batch[key].to(self.device)
        return batch

    def get_validator(self) -> PairValidator:
        """Return the validator, whose fitness is macro F1."""
        validator = super().get_validator()  # for what the host settles beside it
        self.loss_names = NAMES
        return PairValidator(
            self.test_loader, save_dir=validator.save_dir, args=validator.args, _callbacks=self.callbacks
        )

    def label_loss_items(self, loss_items: Any = None, prefix: str = "train") -> Any:
        """Name the loss items; arguments are the host's."""
        keys = [f"{prefix}/{name}" for name in NAMES]
        if loss_items is None:
            return keys
        values = loss_items.values() if isinstance(loss_items, dict) else loss_items
        return dict(zip(keys, (round(float(value), 5) for value in values), strict=True))

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Build the host's optimizer, with groups of their own for the image encoder and for what our blocks name."""
        return self.mark_encoder(regroup(super().build_optimizer(model, *args, **kwargs), model), model)

    def resume_training(self, ckpt: Any) -> None:
        """Resume as the host does; the state of an older version's optimizer, whose groups were others, is left out."""
        super().resume_training(without_misfits(ckpt, self.optimizer) if self.resume else ckpt)

    def run_callbacks(self, event: str) -> None:
        """Run the host's callbacks; an epoch begins with its phase and ends with a word on it."""
        if event == "on_train_epoch_start":
            self.enter(self.epoch)
        if event == "on_train_epoch_end":
            self.leave(self.epoch)
        super().run_callbacks(event)

    def validate(self) -> Any:
        """Validate as the host does; before fusion nothing counts as best, since what is shipped has not trained."""
        metrics, fitness = super().validate()
        if self._stage is not None and self._stage.phase != FUSION and metrics is not None:
            self.best_fitness, fitness = None, 0.0
        return metrics, fitness

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Write the epoch's row of results.csv, with the phase."""
        super().save_metrics({**metrics, **self.phase_metrics()})
