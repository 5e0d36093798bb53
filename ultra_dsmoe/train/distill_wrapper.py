"""A student that learns from a teacher: the host's distillation wrapper with our terms in it.

The host knows the wrapper by its class: it leaves the teacher out of averages and checkpoints, saves the student alone
at the end of a training, and looks through the wrapper where it wants the student. Needs a host with
``distill_model=``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.distill_model import DistillationModel
from ultralytics.utils.torch_utils import copy_attr

from ultra_dsmoe.distill import METHODS, AdaptiveWeights, KDConfig, Level, Method, Pair, match_levels
from ultra_dsmoe.distill.config import restore
from ultra_dsmoe.distill.method import DETECTION, trait
from ultra_dsmoe.model.neck_maps import feeding_rows, neck_maps, watched

TOTAL = "dis_loss"  # the host's name for what distillation adds to the loss
POSITION = {"box": 0, "cls": 1}  # of the host's terms in its loss vector


class FeatureDistillation(DistillationModel):
    """Teacher and student in one training: host's loss, our distillation terms, adaptive weights over both.

    ``L = sum_i w_i g_i L_i + the host's other terms``, i over the distillation terms and the host's ``cls`` and
    ``box``, w the adaptive weights, g `KDConfig.gains`; distillation terms also times `ramp`.

    Source: [TS] Eq. 17. Ours: the host's gains on its own terms; its DFL and a student's auxiliary terms stay outside.

    The teacher is no submodule: the trainer would switch its gradients on, list it among frozen layers, and give it to
    optimizer and workers.

    Attributes:
        student_model: The net that is trained.
        projector: What is trained along with it: the method's adapters.
        pair: What the method knows of both nets; None in averages and checkpoints, as the teacher.
        config: Settings.
        adaptive: Weights of the terms.
        exact_adapters: In a checkpoint, which has the average in half precision, the adapters that were trained;
            None elsewhere, and in files written before there was this entry.
        progress: Epochs of the training, with their fraction, that will be done when the next step is; whoever trains
            says so before each step.
    """

    exact_adapters: dict[str, Tensor] | None = None
    progress: float = math.inf
    stride: Tensor
    student_model: Any  # a detector; the host's annotations are wider

    def __init__(
        self, student_model: Any, teacher_model: Any, config: KDConfig, adaptive: AdaptiveWeights | None = None
    ) -> None:
        """Pair two detectors.

        Args:
            student_model: Net to train, on its device.
            teacher_model: Frozen net, moved to that device.
            config: Settings.
            adaptive: Weights of an interrupted run; None starts anew.

        Raises:
            ConfigError: If the nets have no level in common, or not all that ``config`` names, or no term with a gain.
        """
        nn.Module.__init__(self)
        strides = [net.model[-1].stride.tolist() for net in (student_model, teacher_model)]
        self.levels = match_levels(strides[0], strides[1], config.levels, config.same_levels)
        device = next(student_model.parameters()).device
        self._teacher: tuple[Any, ...] = (teacher_model.to(device),)
        self.student_model = student_model
        copy_attr(self, student_model)
        largest = [max(s) for s in strides]
        if largest[1] > largest[0]:  # images must suit the teacher too: the trainer reads this
            self.stride = torch.cat([student_model.stride, student_model.stride.new_tensor([largest[1]])])
        self.config = config
        self.adaptive = adaptive or AdaptiveWeights((*config.terms, *DETECTION), config.adaptive)
        widths = [_widths(net, int(max(largest))) for net in (student_model, teacher_model)]
        bins = student_model.model[-1].reg_max, teacher_model.model[-1].reg_max
        self.pair: Pair | None = Pair(self.levels, widths[0], widths[1], feeding_rows(teacher_model), bins)
        config.require_active(trait(config.method, "idle")(self.pair))
        self.projector = self.method.adapters(self.pair).to(device)

    @property
    def teacher_model(self) -> Any:
        """The frozen teacher; None in averages and checkpoints."""
        return self._teacher[0]

    @teacher_model.setter
    def teacher_model(self, value: Any) -> None:
        self._teacher, self.pair = (value,), None

    @property
    def method(self) -> Method:
        """The way to distil."""
        return METHODS[self.config.method]

    @property
    def ramp(self) -> float:
        """Share of its strength that distillation has in this step, above 0."""
        return min(1.0, self.progress / self.config.warmup) if self.config.warmup else 1.0

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the loss items behind the student's own."""
        return (*(f"{name}_loss" for name in self.config.terms), TOTAL)

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and checkpoints keep: plain values, no teacher."""
        state = self.__dict__.copy()
        state.update(_teacher=(None,), pair=None, levels=[tuple(level) for level in self.levels])
        state.update(config=self.config.state(), adaptive=self.adaptive.state(), stride=self.student_model.stride)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore settings and weights from plain values."""
        self.__dict__.update({"pair": None, **state})
        self.config, self.adaptive = restore(state["config"]), AdaptiveWeights.from_state(state["adaptive"])
        self.levels = [Level(*level) for level in state["levels"]]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move the teacher with the student."""
        if self.teacher_model is not None:
            self.teacher_model._apply(fn)
        return super()._apply(fn, recurse)

    def _freeze_teacher(self) -> None:
        """Do nothing: the teacher came frozen, and `train` does not reach it."""

    def _remove_feature_hooks(self) -> None:
        """Do nothing: no hook outlives a forward pass."""

    def loss(self, batch: dict[str, Tensor], preds: Any = None) -> tuple[Tensor, Any]:
        """Return the student's loss vector with the distillation's share behind it, and its loss items likewise.

        Args:
            batch: Images and labels.
            preds: The student's predictions, in evaluation only, where no teacher runs and the terms are zero.
        """
        if not self.training:
            loss, items = self.student_model.loss(batch, preds)
            zeros = [loss.new_zeros(())] * len(self.loss_names)
            return torch.cat([loss.reshape(-1), loss.new_zeros(1)]), _joined(items, self.loss_names, zeros)
        assert self.pair is not None
        outputs = self.method.outputs
        with torch.no_grad(), watched(self.teacher_model, outputs=outputs, stop=True) as teacher:
            self.teacher_model(batch["img"])
        with watched(self.student_model, outputs=outputs) as student:
            loss, items = self.student_model.loss(batch)
        raw = self.method.terms(self.config, self.pair, self.projector, teacher, student, batch)
        terms = {name: term * self.config.gain(name) for name, term in raw.items()}
        images = len(batch["img"])
        loss = loss.reshape(-1)
        detection = {name: loss[POSITION[name]] / images * self.config.gain(name) for name in DETECTION}
        self.adaptive.add({**terms, **detection})
        factors = torch.ones_like(loss)
        for name in DETECTION:
            factors[POSITION[name]] = self.config.gain(name) * self.adaptive[name]
        total = self.ramp * torch.stack([self.adaptive[name] * term for name, term in terms.items()]).sum()
        shown = [*(term.detach() for term in terms.values()), total.detach()]
        return torch.cat([loss * factors, (total * images).reshape(1)]), _joined(items, self.loss_names, shown)


def _joined(items: Any, names: tuple[str, ...], values: list[Tensor]) -> Any:
    """Return the host's loss items with ours behind them; one tensor on hosts before 8.4.130, a dictionary since."""
    if isinstance(items, dict):
        return {**items, **dict(zip(names, values, strict=True))}
    return torch.cat([items, torch.stack(values).to(items)])


@torch.no_grad()
def _widths(net: Any, size: int) -> list[int]:
    """Return the channels of the maps that a net's detectors read, by a pass over an empty image of ``size`` pixels."""
    p, training = next(net.parameters()), net.training
    net.eval()
    try:
        with neck_maps(net, stop=True) as maps:
            net(torch.zeros(1, net.yaml.get("channels", 3), size, size, device=p.device, dtype=p.dtype))
    finally:
        net.train(training)
    return [m.shape[1] for m in maps]
