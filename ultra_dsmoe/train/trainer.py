"""Trainer: text and taxonomy from the data YAML, router health, and a faster pace for scalars."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import DEFAULT_CFG, LOGGER, RANK

from ultra_dsmoe.data import lmdb_cache
from ultra_dsmoe.errors import ConfigError, DSMoEError
from ultra_dsmoe.model.criterion import extra_names
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.model.pretrained import EncoderFile, encoders, find_encoder
from ultra_dsmoe.nn.backbone.mobile_sam import MobileSAM
from ultra_dsmoe.nn.backbone.mobile_sam_keys import load_mobile_sam
from ultra_dsmoe.text import Taxonomy, encode_bank
from ultra_dsmoe.text.prompts import pooled_prompts, read_prompts
from ultra_dsmoe.train.checkpoints import Checkpoints
from ultra_dsmoe.train.distill_trainer import Distilling
from ultra_dsmoe.train.optimizer import Movement, regroup, without_misfits
from ultra_dsmoe.train.referencing import Referencing
from ultra_dsmoe.train.router_health import RouterMonitor
from ultra_dsmoe.train.run_folder import RunFolder
from ultra_dsmoe.train.worker_errors import WorkerErrors

ONE_CLASS = "item"  # what the host calls the class that stands for all with ``single_cls``


class DSMoETrainer(WorkerErrors, RunFolder, Checkpoints, Distilling, Referencing, DetectionTrainer):
    """The host's detection trainer for `DSMoEModel`."""

    default_kd = "attention"

    def __init__(self, cfg: Any = DEFAULT_CFG, overrides: dict[str, Any] | None = None, _callbacks: Any = None) -> None:
        """Settle arguments, run folder and data as the host does; arguments are the host's."""
        if isinstance(given := (overrides or {}).get("pretrained"), EncoderFile):
            overrides = {**(overrides or {}), "pretrained": str(given)}  # from here on as text, so that it can be saved
        super().__init__(cfg, overrides, _callbacks)

    def get_dataset(self) -> Any:
        """Read the data set; with ``single_cls`` all classes become one, described by what describes them."""
        single, self.args.single_cls = self.args.single_cls, False  # the host forgets the names
        try:
            data = super().get_dataset()
        finally:
            self.args.single_cls = single
        self._classes = data["names"]
        if single:
            LOGGER.info(f"single_cls: {len(self._classes)} classes are trained as one, without taxonomy")
            data.update(names={0: ONE_CLASS}, nc=1, taxonomy=None)
        return data

    def get_model(
        self, cfg: str | dict[str, Any] | None = None, weights: nn.Module | None = None, verbose: bool = True
    ) -> DSMoEModel:
        """Build the net for the data set: text vectors, taxonomy, weights.

        Args:
            cfg: Model YAML, path or dictionary.
            weights: Net to load weights from.
            verbose: Whether to print the rows.

        Raises:
            DSMoEError: If model YAML, text, taxonomy, weights, teacher or keys do not suit each other; no run folder
                remains.
        """
        try:
            model = self._build(cfg, getattr(weights, "student_model", weights), verbose)
            self.check_pair(model, weights)
        except DSMoEError:
            self.discard_run()
            raise
        return model

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """Build the host's data set; with ``cache=lmdb`` its images come from there.

        Raises:
            DSMoEError: If the cache cannot be read or written; no run folder remains.
        """
        dataset = super().build_dataset(img_path, mode, batch)
        if lmdb_cache.is_wanted(self.args):
            try:
                lmdb_cache.use_lmdb(dataset, self.args)
            except DSMoEError:
                self.discard_run()
                raise
        return dataset

    def _build(self, cfg: str | dict[str, Any] | None, weights: nn.Module | None, verbose: bool) -> DSMoEModel:
        if lmdb_cache.is_wanted(self.args):
            lmdb_cache.load_library()  # fails here where it is missing, rather than after the net was built
        cfg, weights = self.paired(cfg or "dsmoe-n.yaml", weights)
        model = DSMoEModel(cfg, nc=self.data["nc"], ch=self.data.get("channels", 3), verbose=verbose and RANK == -1)
        model.names = self.data["names"]  # before loading: the host matches class rows by name
        if taxonomy := self.data.get("taxonomy"):
            model.set_taxonomy(Taxonomy.parse(self.data["names"], taxonomy), seed=self.args.seed)
        # Before the weights, since another encoder means another projection width.
        if isinstance(weights, DSMoEModel) and self._same_text(model, weights):
            model.write_text(weights.text_state())
        elif bank := self._encode(model):
            model.set_text(bank)
        if weights:
            model.load(weights)
        self.remember_references(model)
        if self.args.dsmoe_gamma is not None:
            model.set_gamma(self.args.dsmoe_gamma)
        if self.args.dsmoe_topk is not None:
            model.set_topk(self.args.dsmoe_topk)
        if self.args.dsmoe_moe is not None:
            model.set_moe_mode(self.args.dsmoe_moe)
        return model

    def setup_model(self) -> Any:
        """Build or load the net as the host does; ``pretrained=mobile_sam.pt`` goes to the MobileSAM encoder.

        Raises:
            DSMoEError: If weights are missing or do not suit the net; no run folder remains.
        """
        try:
            return self._set_up()
        except DSMoEError:
            self.discard_run()
            raise

    def _set_up(self) -> Any:
        given = self.args.pretrained
        file = None if self.resume else find_encoder(given)  # a resumed run has trained its encoder further
        if file:
            self.args.pretrained = False  # the host would look for a whole detector in the file
        try:
            ckpt = super().setup_model()
        finally:
            self.args.pretrained = given
        if not isinstance(net := self._net(), DSMoEModel):  # a trainer of the user's built one of the host's
            expected = "a get_model that returns what super().get_model returns, a DSMoEModel"
            raise ConfigError("trainer", expected, type(net).__name__)
        if file:
            for encoder in encoders(self._net(), given):
                load_mobile_sam(encoder, file)
        elif (not given or given is True) and RANK in {-1, 0} and self._net().blocks(MobileSAM):
            LOGGER.info("MobileSAM encoder: from scratch (pretrained=mobile_sam.pt loads its weights)")
        return ckpt

    def _same_text(self, model: DSMoEModel, weights: DSMoEModel) -> bool:
        """Whether a net's text vectors stay: on resume, or where neither wording nor classes change."""
        info = weights.text_info
        if len(model.text_rows()) != len(weights.text_rows()):
            return False
        if info is None or info["names"] != list(self.data["names"].values()):
            return False
        return bool(self.args.resume) or not (
            self.args.dsmoe_text or self.args.dsmoe_prompts or self.data.get("prompts")
        )

    def _encode(self, model: DSMoEModel) -> Any:
        """Encode the prompts of the data YAML, or of the file given as ``dsmoe_prompts``; None without a text side."""
        if not model.text_rows():
            for key in ("dsmoe_prompts", "dsmoe_text"):
                if value := getattr(self.args, key):
                    raise ConfigError(key, "a model with a TextSemantics row", f"{value} for one without")
            return None
        prompts = self.data.get("prompts") or {}
        if self.args.dsmoe_prompts and isinstance(prompts, dict):
            prompts = {**prompts, **read_prompts(self.args.dsmoe_prompts)}
        keep = None
        if self.args.single_cls:
            own = isinstance(prompts, dict) and prompts.get(ONE_CLASS)
            keep = None if own else [pooled_prompts(self._classes, prompts)]
            prompts = {ONE_CLASS: own} if own else None
        encoder, each = self.args.dsmoe_text or "auto", model.attends_descriptions
        return encode_bank(self.data["names"], prompts, encoder=encoder, keep=keep, each=each)

    def student_loss_names(self) -> tuple[str, ...]:
        """Return the names of loss items that the net adds to the host's."""
        net = self._net()
        return extra_names(net, net.options)

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Build the host's optimizer, with groups of their own for what our blocks name."""
        return regroup(super().build_optimizer(model, *args, **kwargs), model)

    def resume_training(self, ckpt: Any) -> None:
        """Resume as the host does; the state of an older version's optimizer, whose groups were others, is left out."""
        optimizer: Any = self.optimizer  # built by now, which the host's annotation does not know
        super().resume_training(without_misfits(ckpt, optimizer) if self.resume else ckpt)

    def run_callbacks(self, event: str) -> None:
        """Run the host's callbacks; at an epoch's end, look after the router first, and once at the pace."""
        if event == "on_train_start" and RANK in {-1, 0}:
            self._movement: Movement | None = Movement(self._net())
        if event == "on_train_epoch_end":
            movement, optimizer = getattr(self, "_movement", None), getattr(self, "optimizer", None)
            if movement and optimizer and movement.report(optimizer):
                self._movement = None
            self.router_metrics = RouterMonitor(self._net()).end_epoch(self.epoch)
        super().run_callbacks(event)

    def _net(self) -> DSMoEModel:
        net: Any = self.model
        net = getattr(net, "module", net)
        return getattr(net, "student_model", net)

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Write the epoch's row of results.csv, router columns included."""
        super().save_metrics({**metrics, **getattr(self, "router_metrics", {})})
