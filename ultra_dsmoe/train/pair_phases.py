"""What changes in a classifier's training from phase to phase: what trains, on which images, at which pace.

Source: [PFA] Sec. 3.3: warm-up, then alignment that begins with the pairs least alike, then fusion.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from ultralytics.utils import LOGGER, RANK

from ultra_dsmoe.data.stage_sampler import StageSampler
from ultra_dsmoe.losses.image_text import self_similarity
from ultra_dsmoe.model.classifier import PairModel
from ultra_dsmoe.model.pair_options import PairOptions
from ultra_dsmoe.nn.head.pair_classify import ALIGNMENT, FUSION, PHASES
from ultra_dsmoe.train.pair_schedule import Stage, position, stage_at, stages

if TYPE_CHECKING:
    from ultralytics.models.yolo.classify import ClassificationTrainer

    Base = ClassificationTrainer
else:
    Base = object

ENCODER = "image_encoder"  # mark of the optimizer's groups whose pace differs between phases


class PairPhases(Base):
    """Mixin before `ClassificationTrainer` that takes a `PairModel` through its phases."""

    sampler: StageSampler
    optimizer: Any  # the host's attributes, for the type checker
    scheduler: Any
    lf: Any
    _stage: Stage | None = None
    _similarity: float = 0.0
    _frozen: frozenset[str] = frozenset()  # parameters that the user froze

    def net(self) -> PairModel:
        """Return the net behind what a distributed training wraps around it."""
        net: Any = self.model
        return getattr(net, "module", net)

    @property
    def options(self) -> PairOptions:
        """The net's."""
        return self.net().pair_options

    @property
    def plan(self) -> list[Stage]:
        """The stages of this training."""
        return stages(self.epochs, self.options)

    # Pace ------------------------------------------------------------------------------------------------------------

    def mark_encoder(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
        """Part the image encoder's parameters from the others, group by group, and return the optimizer."""
        net: Any = getattr(model, "module", model)
        encoder = {id(p) for row in net.model[: net.encoder_rows()] for p in row.parameters()}
        for group in list(optimizer.param_groups):
            own = [p for p in group["params"] if id(p) in encoder]
            group["params"] = [p for p in group["params"] if id(p) not in encoder]
            if own:
                optimizer.add_param_group({**group, "params": own, ENCODER: True})
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer

    def _setup_scheduler(self) -> None:
        """Let the host's learning rate fall once in each phase, the encoder's by its pace beside the others'."""
        super()._setup_scheduler()
        falling, plan = self.lf, self.plan

        def factor(epoch: int) -> float:
            return float(falling(position(plan, epoch) * self.epochs))

        def of_encoder(epoch: int) -> float:
            return factor(epoch) * self.encoder_pace(stage_at(plan, epoch).phase)

        self.lf = factor  # the host's warm-up reads it
        groups = self.optimizer.param_groups
        self.scheduler = LambdaLR(self.optimizer, [of_encoder if ENCODER in group else factor for group in groups])

    def encoder_pace(self, phase: str) -> float:
        """Return the pace of the image encoder in a phase, relative to the rest of the net."""
        return {ALIGNMENT: self.options.pace[0], FUSION: self.options.pace[1]}.get(phase, 1.0)

    # Phases ----------------------------------------------------------------------------------------------------------

    def enter(self, epoch: int) -> None:
        """Begin an epoch: where its stage is another than the last epoch's, change what that changes.

        A resumed training has had its last epoch in another process; what begins with a stage begins there, too.
        """
        stage = stage_at(self.plan, epoch)
        if stage == self._stage:
            return
        first, self._stage = self._stage is None, stage
        before = stage_at(self.plan, epoch - 1) if epoch else stage
        if first:
            self._frozen = frozenset(name for name, p in self.net().named_parameters() if not p.requires_grad)
        self._prepare(stage.phase)
        if before.phase != stage.phase:
            self._restart_average()
        images = self._images(stage, fresh=before != stage)
        self.sampler.begin(images, epoch, stage.phase == ALIGNMENT and self.options.passes == "sequential")
        self.train_loader.reset()
        if RANK in {-1, 0}:
            number = f", stage {stage.number}" if stage.number else ""
            LOGGER.info(f"epoch {epoch + 1}: {stage.phase}{number} for {stage.epochs} epochs on {len(images)} images")

    def _nets(self) -> Iterator[PairModel]:
        """Yield the net that learns and the average of it that is kept."""
        yield self.net()
        average: Any = getattr(self.ema, "ema", None)
        if average is not None:
            yield average

    def _prepare(self, phase: str) -> None:
        """Tell net and average the phase, and freeze an encoder without pace, but for what the user froze."""
        for net in self._nets():
            net.head.phase = phase
        net, still = self.net(), self.encoder_pace(phase) == 0
        encoder = {id(p) for row in net.model[: net.encoder_rows()] for p in row.parameters()}
        for name, p in net.named_parameters():
            if name not in self._frozen:
                p.requires_grad_(not (still and id(p) in encoder))

    def _restart_average(self) -> None:
        """Let the average begin anew at the net: one over a change of phase is of nets that do different things."""
        average: Any = self.ema
        if average is not None and average.enabled:
            average.ema.load_state_dict(self.net().state_dict())
            average.updates = 0

    def _model_train(self) -> None:
        """Put the net in training mode; the statistics of an encoder that stands still stand still, too."""
        super()._model_train()
        if self._stage is not None and self.encoder_pace(self._stage.phase) == 0:
            net = self.net()
            for row in net.model[: net.encoder_rows()]:
                row.eval()

    # Order -----------------------------------------------------------------------------------------------------------

    def _images(self, stage: Stage, fresh: bool) -> list[int]:
        """Return the numbers of the images of a stage."""
        count = self.sampler.count
        if stage.phase != ALIGNMENT:
            return list(range(count))
        first = max(1, math.ceil(stage.share * count - 1e-9))
        if self.options.pfa == "direct":
            return list(range(count))
        order = self.net().pair_order
        if order is None or len(order) != count:
            order = self._ordered(range(count))
        elif self.options.rerank and fresh and stage.number > 1:
            done = max(1, math.ceil(self.options.strides[stage.number - 2] * count - 1e-9))
            order = order[:done] + self._ordered(order[done:])
        for net in self._nets():
            net.pair_order = order
        return order[:first]

    def _ordered(self, images: Any) -> list[int]:
        """Return images in the order in which alignment takes them; that of process 0 where there are several."""
        numbers = np.asarray(list(images))
        if self.options.pfa == "random":
            return np.random.default_rng(self.args.seed).permutation(numbers).tolist()
        found: list[Any] = [None]
        if RANK in {-1, 0}:
            similarity = self.similarities(numbers)
            order = np.argsort(-similarity if self.options.pfa == "descending" else similarity, kind="stable")
            found = [numbers[order].tolist()]
        if RANK != -1:
            dist.broadcast_object_list(found, 0)
        return list(found[0])

    @torch.no_grad()
    def similarities(self, images: Any) -> np.ndarray:
        """Return how much each image is like its texts, (M,), as the average of the net sees it."""
        dataset: Any = self.train_loader.dataset
        *_, net = self._nets()
        found = []
        with _outputs(net):
            for start in range(0, len(images), self.batch_size):
                items = [dataset[int(i)] for i in images[start : start + self.batch_size]]
                stack = torch.stack([item["img"] for item in items]).to(self.device).float()
                outputs = net(stack)
                found.append(self_similarity(outputs.image, outputs.vlm, outputs.llm).cpu().numpy())
        return np.concatenate(found) if found else np.zeros(0)

    def leave(self, epoch: int) -> None:
        """End an epoch: at the end of a stage of alignment, say how alike images and texts have become."""
        stage = self._stage
        if stage is None or stage.phase != ALIGNMENT or stage.has(epoch + 1) or RANK not in {-1, 0}:
            return
        every = self.similarities(range(self.sampler.count))
        mine = np.zeros(len(every), dtype=bool)
        mine[self.sampler.images] = True
        self._similarity = float(every[mine].mean())
        rest = f", of the others {every[~mine].mean():.3f}" if not mine.all() else ""
        LOGGER.info(f"stage {stage.number}: mean similarity of its images and their texts {self._similarity:.3f}{rest}")

    def phase_metrics(self) -> dict[str, float]:
        """Return the epoch's columns of results.csv: phase from 1, stage of alignment, images, similarity."""
        stage = self._stage
        if stage is None:
            return {}
        return {
            "pfa/phase": PHASES.index(stage.phase) + 1,
            "pfa/stage": stage.number,
            "pfa/images": len(self.sampler.images),
            "pfa/similarity": self._similarity,
        }


@contextmanager
def _outputs(net: PairModel) -> Iterator[None]:
    """Let a net return what its head returns in training, but without dropout and with the statistics it has."""
    was = net.training
    net.eval()
    net.head.whole = True
    try:
        yield
    finally:
        net.head.whole = False
        net.train(was)
