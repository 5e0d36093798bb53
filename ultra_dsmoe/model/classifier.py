"""The classifier: the host's classification model whose images may carry two texts."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from ultralytics.nn.tasks import ClassificationModel, yaml_model_load
from ultralytics.utils import LOGGER

from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.model import transfer
from ultra_dsmoe.model.network import CHECKPOINT_FORMAT, Network
from ultra_dsmoe.model.options import check_rows, layer_names
from ultra_dsmoe.model.pair_criterion import PairCriterion
from ultra_dsmoe.model.pair_options import PairOptions, check_pair_options
from ultra_dsmoe.model.pair_text import probe_bank
from ultra_dsmoe.nn.fusion.image_vector import ImageProjection
from ultra_dsmoe.nn.fusion.split_text import IMAGE, WITH_TEXT
from ultra_dsmoe.nn.head.pair_classify import PairClassify
from ultra_dsmoe.text.bank import TextBank

IMGSZ = 224  # pixels, the host's for classifiers


class PairModel(Network, ClassificationModel):
    """A classifier built from a model YAML whose last row is `PairClassify`.

    Attributes:
        pair_text: State of the `PairText` that it was trained with, None before.
        pair_order: Numbers of the training images in the order in which alignment takes them, None before.
        encoder_name: Name under which the user gives the text encoder for one call.
    """

    yaml: dict[str, Any]  # the host's attributes, for the type checker
    model: Any
    task = "classify"
    pair_text: dict[str, Any] | None = None
    pair_order: list[int] | None = None
    encoder_name: str | None = None

    def __init__(
        self, cfg: str | dict[str, Any] = "pfa-cls.yaml", ch: int = IMAGE, nc: int | None = None, verbose: bool = True
    ) -> None:
        """Build the net.

        Args:
            cfg: Model YAML, path or dictionary.
            ch: Channels of the data set's images; 3.
            nc: Number of classes, overrides the YAML.
            verbose: Whether to print the rows.

        Raises:
            ConfigError: If a row is none, the last is another head, or the YAML's ``dsmoe:`` section has a key or value
                that it cannot have.
        """
        self.checkpoint_format = CHECKPOINT_FORMAT
        cfg = deepcopy(cfg) if isinstance(cfg, dict) else yaml_model_load(cfg)
        check_rows(cfg)
        section = check_pair_options(cfg.get("dsmoe"), layer_names(cfg))
        options = PairOptions.read(section, layer_names(cfg))
        cfg["dsmoe"] = {**section, "text_mode": options.text_mode}  # blocks read it too
        cfg["channels"] = WITH_TEXT if options.text_mode == "always" else IMAGE
        super().__init__(cfg, ch, nc, verbose)
        head = self.model[-1]
        if not isinstance(head, PairClassify):
            name = head.type.rpartition(".")[2]
            raise ConfigError(f"model YAML row {head.i} ({name})", "a PairClassify head in the last row", name)

    @property
    def pair_options(self) -> PairOptions:
        """The model YAML's ``dsmoe:`` section with defaults in place."""
        return PairOptions.read(self.options, layer_names(self.yaml))

    @property
    def wants_text(self) -> bool:
        """Whether it needs an image's texts to classify it."""
        return self.pair_options.text_mode == "always"

    @property
    def head(self) -> PairClassify:
        """The last row."""
        return self.model[-1]

    def encoder_rows(self) -> int:
        """Return how many rows at the start are the image encoder's: all before its projection."""
        return next((i for i, row in enumerate(self.model) if isinstance(row, ImageProjection)), 0)

    def predict(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the net on images (B, 3, H, W) in [0, 1], or (B, 4, H, W) with texts.

        Raises:
            ConfigError: If a row whose embedding is asked for gives lists of texts.
            ShapeError: If it needs texts and there are none.
        """
        if self.wants_text and not torch.jit.is_tracing() and x.shape[1] != WITH_TEXT:
            expected = f"(B, {WITH_TEXT}, H, W), since this net was built with text_mode: always"
            raise ShapeError("input images", expected, tuple(x.shape))
        if rows := kwargs.pop("embed", None):
            return self._embed(x, rows)
        return super().predict(x, *args, **kwargs)

    def _embed(self, x: torch.Tensor, rows: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Return what rows give, one vector per image: the host averages maps, but most rows here give vectors."""
        found: dict[int, torch.Tensor] = {}

        def keep(row: Any, _: Any, output: Any) -> None:
            if not isinstance(output, torch.Tensor):
                raise ConfigError("embed", "rows that give a map or a vector", f"row {row.i} ({type(row).__name__})")
            found[row.i] = output

        handles = [self.model[i].register_forward_hook(keep) for i in rows]
        try:
            super().predict(x)
        finally:
            for handle in handles:
                handle.remove()
        vectors = [output.flatten(2).mean(2) if output.ndim > 2 else output for output in found.values()]
        return torch.cat(vectors, 1).unbind(0)

    def init_criterion(self) -> PairCriterion:
        """Return the criterion of all phases."""
        return PairCriterion(self.head, self.pair_options, super().init_criterion())

    def load(self, weights: Any, verbose: bool = True) -> None:
        """Load weights by name and shape; rows of another net move to where this YAML's ``transfer`` has them.

        Args:
            weights: A model, or a checkpoint dictionary.
            verbose: Whether to print how many tensors fitted.

        Raises:
            WeightsError: If they are another architecture's.
        """
        source: Any = (weights.get("ema") or weights["model"]) if isinstance(weights, dict) else weights
        source, moved = transfer.fitted(self, source)
        super().load(source, verbose and not moved)
        theirs = dict(source.named_modules())
        for name, norm in self.named_modules():  # the host's detectors and classifiers differ in it
            if isinstance(norm, nn.BatchNorm2d) and isinstance(other := theirs.get(name), nn.BatchNorm2d):
                norm.eps = other.eps
        if verbose and moved:
            LOGGER.info(transfer.summary(self, source))

    def info(self, detailed: bool = False, verbose: bool = True, imgsz: int | list[int] = IMGSZ) -> Any:
        """Print and return the net's size; see `Network.info`."""
        return super().info(detailed, verbose, imgsz)

    # What the plugin asks of every network of ours -------------------------------------------------------------------

    @property
    def text_info(self) -> dict[str, Any] | None:
        """What is known of its texts, its ``encoder`` among it; None before a training."""
        return self.pair_text

    def text_bank(self) -> TextBank | None:
        """Return what tells its texts' encoder from another; None where the checkpoint keeps nothing of the kind."""
        return probe_bank(self.pair_text)

    def name_encoder(self, spec: str) -> None:
        """Take the text encoder of the training under a name of the user's."""
        self.encoder_name = spec

    def text_state(self) -> tuple[dict[str, Any] | None, str | None]:
        """Return a copy of what it knows of its texts, and how the user calls their encoder."""
        return deepcopy(self.pair_text), self.encoder_name

    def write_text(self, state: tuple[dict[str, Any] | None, str | None]) -> None:
        """Take what `text_state` returned."""
        self.pair_text, self.encoder_name = deepcopy(state[0]), state[1]

    def require_finite_text(self, source: str) -> None:
        """Accept any checkpoint: the texts of its images are none of its tensors."""
