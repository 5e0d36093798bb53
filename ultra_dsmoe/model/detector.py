"""The detector: the host's detection model with text, routing and sparse execution."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from ultralytics.nn.modules import Detect
from ultralytics.nn.tasks import DetectionModel, yaml_model_load
from ultralytics.utils import LOGGER

from ultra_dsmoe.errors import ConfigError, ShapeError, TextError, WeightsError
from ultra_dsmoe.model import transfer
from ultra_dsmoe.model.augmented import predict_views
from ultra_dsmoe.model.criterion import DSMoECriterion
from ultra_dsmoe.model.driven import driven_by
from ultra_dsmoe.model.options import check_options, check_rows
from ultra_dsmoe.nn.base import TextFoldMixin
from ultra_dsmoe.nn.folding import LinearFoldMixin
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate
from ultra_dsmoe.nn.neck.hyperbolic_fusion import HyperbolicFusion
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE
from ultra_dsmoe.nn.neck.text_semantics import TextSemantics
from ultra_dsmoe.ops.gray import check_gamma, gray_transform

if TYPE_CHECKING:
    from ultra_dsmoe.text import Taxonomy, TextBank

CHECKPOINT_FORMAT = 1  # raised when an older package could not read what a newer one writes


class DSMoEModel(DetectionModel):
    """A detector built from a model YAML that names blocks of this package.

    Attributes:
        text_info: Names, prompts, encoder and content hash of the text vectors, or None before any were set.
    """

    yaml: dict[str, Any]  # the host's attributes, for the type checker
    model: Any
    stride: torch.Tensor
    largest_stride: int | None = None  # pixels, None while being built; a number, which `torch.export` can read

    def __init__(
        self, cfg: str | dict[str, Any] = "dsmoe-n.yaml", ch: int = 3, nc: int | None = None, verbose: bool = True
    ) -> None:
        """Build the net.

        Args:
            cfg: Model YAML, path or dictionary.
            ch: Input channels.
            nc: Number of classes, overrides the YAML.
            verbose: Whether to print the rows.

        Raises:
            ConfigError: If a row is none, or the YAML's ``dsmoe:`` section has a key or value that it cannot have.
        """
        self.text_info: dict[str, Any] | None = None
        self.checkpoint_format = CHECKPOINT_FORMAT
        # A copy: the host writes into a dictionary that it is given, and `set_topk` does, so that nets would share it.
        cfg = deepcopy(cfg) if isinstance(cfg, dict) else yaml_model_load(cfg)
        check_rows(cfg)  # the host looks into the first row before it reads any
        super().__init__(cfg, ch, nc, verbose)
        if not isinstance(self.model[-1], Detect):
            last = self.model[-1]
            name = last.type.rpartition(".")[2]
            raise ConfigError(f"model YAML row {last.i} ({name})", "a detection head in the last row", name)
        self.largest_stride = int(self.stride.max())
        # Here, not only where they are used: a training must not fail after its run folder exists.
        self.yaml["dsmoe"] = check_options(self.yaml.get("dsmoe"))

    @property
    def options(self) -> dict[str, Any]:
        """The model YAML's ``dsmoe:`` section."""
        if self.yaml.get("dsmoe") is None:  # a YAML without the section gets one: `set_topk` writes there
            self.yaml["dsmoe"] = {}
        return self.yaml["dsmoe"]

    def blocks(self, kind: type) -> list[Any]:
        """Return all blocks of a class."""
        return [m for m in self.modules() if isinstance(m, kind)]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Refuse a checkpoint that a newer version of this package wrote."""
        written = state.get("checkpoint_format", CHECKPOINT_FORMAT)
        if written > CHECKPOINT_FORMAT:
            raise WeightsError("checkpoint", f"format {CHECKPOINT_FORMAT} or older (upgrade ultra-dsmoe)", f"{written}")
        super().__setstate__(state)
        self.largest_stride = int(self.stride.max())  # older checkpoints have none

    # Text ------------------------------------------------------------------------------------------------------------

    def set_text(self, bank: TextBank) -> None:
        """Take the text vectors of a bank, one per class in the order of ``names``.

        Raises:
            TextError: If the number of classes differs, a vector is not finite, or the model has no text side.
        """
        for row in self.blocks(TextSemantics):
            single = bank.each if row.attend else None
            row.set_bank(torch.from_numpy(bank.vectors if single is None else single))
        self.text_info = {
            "names": list(bank.names),
            "prompts": [list(p) for p in bank.prompts],
            "encoder": bank.encoder,
            "key": bank.key,
        }
        self._refold()

    def text_rows(self) -> list[TextSemantics]:
        """Return the blocks that hold text vectors."""
        return [row for row in self.blocks(TextSemantics) if row.text]

    @property
    def attends_descriptions(self) -> bool:
        """Whether the net reads every description and not their mean alone."""
        return any(row.attend for row in self.text_rows())

    def require_finite_text(self, source: str) -> None:
        """Refuse text vectors that no encoder gives.

        Args:
            source: Where they come from, for the error.

        Raises:
            TextError: If one is not finite.
        """
        if not all(torch.isfinite(row.bank).all() for row in self.text_rows()):
            raise TextError(f"text vectors of {source}", "finite numbers", "NaN or infinity")

    def copy_text(self, source: DSMoEModel) -> None:
        """Take over the text vectors of another net with the same number of classes and of `text_rows`."""
        for row, other in zip(self.text_rows(), source.text_rows(), strict=True):
            row.set_bank(other.bank)
        self.text_info = deepcopy(source.text_info)

    def set_prompts(self, prompts: dict[str, str | list[str]], encoder: str | None = None) -> None:
        """Reword classes without retraining; classes left out keep their prompts.

        Args:
            prompts: Class name to description(s).
            encoder: Name of the trained encoder, which may then be fetched, or its folder; by default the model looks
                for it on this disk alone.

        Raises:
            TextError: If a class does not exist, a prompt is empty, the encoder cannot tell classes apart or is not on
                this disk, or the model has no text side.
        """
        from ultra_dsmoe.text import class_names, encode_bank

        if not self.text_rows():
            raise TextError("prompts", "a model with text", "a model without a TextSemantics row")
        info = self.text_info or {"encoder": "auto", "names": [], "prompts": None}
        keep = info["prompts"] if info["names"] == list(class_names(self.names)) else None
        bank = encode_bank(
            self.names,
            prompts,
            encoder or info["encoder"],
            keep=keep,
            local_only=encoder is None,
            each=self.attends_descriptions,
        )
        self.set_text(bank)

    def text_bank(self) -> TextBank | None:
        """Return the text vectors with names, prompts and encoder; None where there are none of known origin."""
        from ultra_dsmoe.text import TextBank, class_names

        rows, info = self.text_rows(), self.text_info
        if not rows or not info:
            return None
        prompts = tuple(tuple(texts) for texts in info["prompts"])
        bank = rows[0].bank.detach().float().cpu()
        each = bank.numpy() if bank.ndim == 3 else None
        vectors = (bank if each is None else nn.functional.normalize(bank.sum(1), dim=-1)).numpy()
        return TextBank(class_names(self.names), prompts, info["encoder"], vectors, str(info.get("key", "")), each)

    def set_taxonomy(self, taxonomy: Taxonomy, seed: int = 0) -> None:
        """Take a taxonomy of the classes: tree for the hierarchy loss, initial radii from its embedding."""
        radii = torch.atanh(torch.from_numpy(taxonomy.embed(seed=seed)).float().norm(dim=1).clamp_max(0.96))
        members = torch.from_numpy(taxonomy.members.astype("float32"))
        edges = torch.tensor(taxonomy.edges, dtype=torch.long).view(-1, 2)
        for block in self.blocks(HyperbolicFusion):
            block.set_taxonomy(members, edges, radii)

    @torch.no_grad()
    def fold_text(self) -> None:
        """Fold everything that depends on text alone into buffers."""
        outputs: dict[int, torch.Tensor] = {}
        row: Any  # the host's parser attaches i and f
        for row in self.model:
            i, sources = row.i, [row.f] if isinstance(row.f, int) else row.f
            if isinstance(row, TextSemantics):
                outputs[i] = row.text_constants()[0]
            text = next((outputs[j] for j in (source % i for source in sources if i) if j in outputs), None)
            for part in row.modules():  # a mixture's own gate lies inside it
                if isinstance(part, TextFoldMixin):
                    part.fold_text(text)

    def _refold(self) -> None:
        if any(m.folded for m in self.blocks(TextFoldMixin)):
            self.fold_text()

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
        for block in (*self.blocks(ExpertGate), *self.blocks(SparseMoE)):
            block.set_topk(topk)
        self.options["topk"] = topk

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
        driver = {moe: gate for gate, moe in driven_by(self)}
        for block in self.blocks(SparseMoE):
            block.set_mode(mode, lists[driver[block]] if block in driver else None)
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
        loss = check_options(self.options).get("loss", "dsmoe")
        return inner if loss == "host" else DSMoECriterion(self, inner, self.options)

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
        if verbose and moved:
            LOGGER.info(transfer.summary(self, source))

    def gflops(self, imgsz: int | list[int] = 640) -> float:
        """Return the work of one image in GFLOPs (2 x multiply-accumulate): of the experts those that run, not all."""
        h, w = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
        p = next(self.parameters())
        training = self.training
        self.eval()
        try:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                self(torch.zeros(1, self.yaml.get("channels", 3), h, w, device=p.device, dtype=p.dtype))
        finally:
            self.train(training)
        return counter.get_total_flops() / 1e9

    def info(self, detailed: bool = False, verbose: bool = True, imgsz: int | list[int] = 640) -> Any:
        """Print and return layers, parameters, gradients and executed GFLOPs (of the experts that run).

        Args:
            detailed: Whether to print every layer, as the host does.
            verbose: Whether to print at all; without, nothing is returned.
            imgsz: Image size for the GFLOPs.
        """
        if not verbose:
            return None
        if detailed:
            super().info(detailed=True, verbose=True, imgsz=imgsz)
        layers = sum(1 for m in self.modules() if not m._modules)
        params = sum(p.numel() for p in self.parameters())
        grads = sum(p.numel() for p in self.parameters() if p.requires_grad)
        flops = self.gflops(imgsz)
        experts = ", ".join(f"{m.k} of {m.experts} experts" for m in self.blocks(SparseMoE))
        name = str(self.yaml.get("yaml_file", "")).rsplit("/", 1)[-1].removesuffix(".yaml") or type(self).__name__
        LOGGER.info(
            f"{name} summary{' (fused)' if self.is_fused() else ''}: {layers:,} layers, {params:,} parameters, "
            f"{grads:,} gradients, {flops:.1f} GFLOPs{f' ({experts} chosen)' if experts else ''}"
        )
        return layers, params, grads, flops
