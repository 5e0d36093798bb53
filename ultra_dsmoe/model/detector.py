"""The detector: the host's detection model with a text side, routing and sparse execution."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from ultralytics.nn.modules import Detect
from ultralytics.nn.tasks import DetectionModel, yaml_model_load
from ultralytics.utils import LOGGER

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.model import transfer
from ultra_dsmoe.model.augmented import predict_views
from ultra_dsmoe.model.criterion import DSMoECriterion
from ultra_dsmoe.model.input_rows import input_rows
from ultra_dsmoe.model.network import CHECKPOINT_FORMAT, Network
from ultra_dsmoe.model.options import check_options, check_rows, layer_names
from ultra_dsmoe.model.text_side import TextSide
from ultra_dsmoe.nn.folding import LinearFoldMixin
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE
from ultra_dsmoe.nn.reference.reference import Reference
from ultra_dsmoe.ops.gray import check_gamma, gray_transform


class DSMoEModel(TextSide, Network, DetectionModel):
    """A detector built from a model YAML that names blocks of this package; its text side is in `TextSide`.

    Attributes:
        reference_info: How a net that compares images with references was trained; None in all others.
    """

    reference_info: dict[str, Any] | None = None
    yaml: dict[str, Any]  # the host's attributes, for the type checker
    model: Any
    stride: torch.Tensor
    largest_stride: int | None = None  # pixels, None while being built; a number, which `torch.export` can read

    def __init__(
        self,
        cfg: str | dict[str, Any] = "dsmoe-n.yaml",
        ch: int | None = None,
        nc: int | None = None,
        verbose: bool = True,
    ) -> None:
        """Build the net.

        Args:
            cfg: Model YAML, path or dictionary.
            ch: Input channels, overrides the YAML's ``channels``; 3 where neither says them.
            nc: Number of classes, overrides the YAML.
            verbose: Whether to print the rows.

        Raises:
            ConfigError: If a row is none, or the YAML's ``dsmoe:`` section has a key or value that it cannot have.
        """
        self.checkpoint_format = CHECKPOINT_FORMAT
        # A copy: the host writes into a dictionary that it is given, and `set_topk` does, so that nets would share it.
        cfg = deepcopy(cfg) if isinstance(cfg, dict) else yaml_model_load(cfg)
        check_rows(cfg)  # the host looks into the first row before it reads any
        # Hosts differ in whether the YAML's number wins, and build a YAML that a user names without giving one.
        cfg["channels"] = checks.whole("'channels' of the model YAML", cfg.get("channels") or 3) if ch is None else ch
        super().__init__(cfg, cfg["channels"], nc, verbose)
        if not isinstance(self.model[-1], Detect):
            last = self.model[-1]
            name = last.type.rpartition(".")[2]
            raise ConfigError(f"model YAML row {last.i} ({name})", "a detection head in the last row", name)
        self.largest_stride = int(self.stride.max())
        # Here, not only where they are used: a training must not fail after its run folder exists.
        self.yaml["dsmoe"] = check_options(self.yaml.get("dsmoe"), layer_names(self.yaml))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take an older checkpoint, and refuse a newer one."""
        super().__setstate__(state)
        self.largest_stride = int(self.stride.max())  # older checkpoints have none
        for row in self.model:  # nor do their mixtures know the gate
            if isinstance(row, SparseMoE) and row.router is None:
                for gate in (m for m in input_rows(self, row) if isinstance(m, ExpertGate)):
                    row.follow(gate)

    def fuse(self, *args: Any, **kwargs: Any) -> DSMoEModel:
        """Fold the text and what is linear in our blocks, and fuse the host's own modules; arguments are the host's."""
        self.eval()
        self.fold_text()
        for block in self.blocks(LinearFoldMixin):
            block.fold()
        return super().fuse(*args, **kwargs)

    # Routing ---------------------------------------------------------------------------------------------------------

    def set_topk(self, topk: int | str) -> None:
        """Change how many experts each image gets.

        Raises:
            ConfigError: If it is not ``auto`` or an integer from 1 to N, or the model has no experts.
        """
        self._require_experts("topk")
        gates = self.blocks(ExpertGate)
        for gate in gates:
            gate.check_topk(topk)
        for block in (*gates, *(moe for moe in self.blocks(SparseMoE) if moe.router is None)):
            block.set_topk(topk)
        self.options["topk"] = topk
        for part in ("backbone", "head"):  # the YAML follows, so that a net built from it is alike
            self.yaml[part] = [_with_topk(row, topk) for row in self.yaml[part]]

    def set_moe_mode(self, mode: str, kept: Sequence[Sequence[int]] | None = None) -> None:
        """Choose how evaluation and exported files compute the mixtures.

        Args:
            mode: ``gather``, ``static`` or ``dense``, see `SparseMoE`.
            kept: Experts that ``static`` keeps, one list per gate in the order of the rows.

        Raises:
            ConfigError: If the mode is unknown, ``kept`` is missing, needless or wrong, or the model has no experts.
        """
        self._require_experts("moe mode")
        gates = self.blocks(ExpertGate)
        if kept is not None and len(kept) != len(gates):
            raise ConfigError("kept experts", f"one list for each of {len(gates)} gates", f"{len(kept)}")
        lists = {gate: None if kept is None else kept[i] for i, gate in enumerate(gates)}
        for block in self.blocks(SparseMoE):
            block.set_mode(mode, lists.get(block.router))
        for gate in gates:
            gate.keep(lists[gate])

    def set_dynamic_conv(self, on: bool) -> None:
        """Choose whether ``gather`` may use convolutions with gathered weights, which old TensorRT may refuse."""
        self._require_experts("dynamic_conv")
        for block in self.blocks(SparseMoE):
            block.dynamic_conv = on

    def _require_experts(self, argument: str) -> None:
        if not self.blocks(SparseMoE):
            raise ConfigError(argument, "a model with a SparseMoE row", f"{self.yaml.get('yaml_file', 'none')}")

    # Images ----------------------------------------------------------------------------------------------------------

    @property
    def gamma(self) -> float:
        """Exponent of the gray transform that the net begins with; 1 is none."""
        return self.options.get("gamma", 1.0)

    def set_gamma(self, gamma: float) -> None:
        """Change the exponent of the gray transform, for training, evaluation and export alike.

        Raises:
            ConfigError: If it is no finite number above 0.
        """
        self.options["gamma"] = check_gamma("gamma", gamma)

    # Host contract ---------------------------------------------------------------------------------------------------

    def predict(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the net on images (B, C, H, W) in [0, 1], beginning with the gray transform.

        Raises:
            ShapeError: If height or width is not a multiple of the largest stride.
        """
        stride = self.largest_stride
        if stride is None:  # still being built: the options are unchecked
            return super().predict(x, *args, **kwargs)
        if x.shape[-2] % stride or x.shape[-1] % stride:
            got = f"{int(x.shape[-2])}x{int(x.shape[-1])}"
            raise ShapeError("input image", f"height and width that are multiples of {stride}", got)
        return super().predict(gray_transform(x, self.gamma), *args, **kwargs)

    def _predict_augment(self, x: torch.Tensor) -> Any:
        """Run the net on several views of its images; an end-to-end net keeps to one, as the host's do."""
        return super()._predict_augment(x) if getattr(self.model[-1], "end2end", False) else predict_views(self, x)

    def init_criterion(self) -> Any:
        """Return the criterion; ``dsmoe: {loss: host}`` in the YAML gives the host's own."""
        inner = super().init_criterion()
        loss = check_options(self.options, layer_names(self.yaml)).get("loss", "dsmoe")
        return inner if loss == "host" else DSMoECriterion(self, inner, self.options)

    def load(self, weights: Any, verbose: bool = True) -> None:
        """Load weights by name and shape; rows of another net move to where this YAML's ``transfer`` has them.

        Text is no weight: a net that knows its own keeps it, another takes it over from ours. So is what a net knows
        of its references.

        Args:
            weights: A model, or a checkpoint dictionary.
            verbose: Whether to print how many tensors fitted.

        Raises:
            WeightsError: If they are another architecture's.
        """
        source: Any = (weights.get("ema") or weights["model"]) if isinstance(weights, dict) else weights
        source, moved = transfer.fitted(self, source)
        if self.text_info is None:
            self.adopt_text(source)
        if self.reference_info is None and isinstance(self.model[0], Reference):
            self.reference_info = deepcopy(getattr(source, "reference_info", None))
        own = self.text_state()
        super().load(source, verbose and not moved)
        if own.info is not None:
            self.write_text(own)
        if verbose and moved:
            LOGGER.info(transfer.summary(self, source))

    def size_note(self) -> str:
        """Return how many experts of each mixture run."""
        experts = ", ".join(f"{m.k} of {m.experts} experts" for m in self.blocks(SparseMoE))
        return f"{experts} chosen" if experts else ""


def _with_topk(row: Sequence[Any], topk: int | str) -> Sequence[Any]:
    """Return a row of a model YAML with another k where it names one of its own."""
    f, n, name, args = row
    if name not in (ExpertGate.__name__, SparseMoE.__name__) or len(args) < 2 or args[1] is None:
        return row
    return [f, n, name, [args[0], topk, *args[2:]]]
