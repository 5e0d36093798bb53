"""What a trainer needs to distil with our distiller: a mixin, and the host's detection trainer with it."""

from __future__ import annotations

import logging
import os
from copy import copy, deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.torch_utils import strip_optimizer

from ultra_dsmoe.constants import AUTO_TEACHER
from ultra_dsmoe.distill import KDConfig, match_levels, resolve
from ultra_dsmoe.errors import ConfigError, DSMoEError
from ultra_dsmoe.logs import at_level
from ultra_dsmoe.train.checkpoints import Checkpoints
from ultra_dsmoe.train.run_folder import RunFolder
from ultra_dsmoe.train.teacher import check_teacher, load_teacher
from ultra_dsmoe.train.worker_errors import WorkerErrors

if TYPE_CHECKING:
    from ultra_dsmoe.train.distill_wrapper import FeatureDistillation

    Base = DetectionTrainer
else:
    Base = object

MAP, MAP50 = "metrics/mAP50-95(B)", "metrics/mAP50(B)"


class Distilling(Base):
    """Mixin before `DetectionTrainer`: wraps the student where a teacher is given and the distiller is ours.

    Attributes:
        default_kd: What ``dsmoe_kd`` is where it is not given; None leaves distillation to the host.
    """

    default_kd: str | None = None
    _kd_metrics: dict[str, float] | None = None
    _resumed: Any = None  # the wrapper of the checkpoint that a run goes on from
    _teacher: Any = None
    _starts_with_weights = False
    _begun = 0  # steps of this epoch

    def check_pair(self, student: Any, weights: nn.Module | None) -> None:
        """Load the teacher and refuse it where it does not suit data and student.

        To be called by ``get_model``, before anything is trained. The host's distiller, where asked for by name, takes
        any levels; classes and images are for it what they are for ours.

        Raises:
            DSMoEError: If settings, teacher, classes or levels do not suit each other.
        """
        self._starts_with_weights = weights is not None
        config, head = self._kd_config(), student.model[-1]
        if config is None:
            if (given := getattr(self.args, "distill_model", None)) and len(head.f) != head.nl:
                expected = "attention or mimic for detectors that read text beside the maps"
                raise ConfigError("dsmoe_kd", expected, "host, which would take the text for a map")
            if given and self.args.dsmoe_kd:
                check_teacher(load_teacher(given), student, self.data["names"], given)
            return
        self._teacher = load_teacher(self.args.distill_model)
        check_teacher(self._teacher, student, self.data["names"], self.args.distill_model)
        strides = self._teacher.model[-1].stride.tolist()
        match_levels(head.stride.tolist(), strides, config.levels, config.same_levels)

    def check_resume(self, overrides: Any) -> None:
        """Settle the arguments as the host does; a run that goes on has its teacher, whatever ``auto`` said."""
        again = self.args.resume and (overrides or {}).get("distill_model") == AUTO_TEACHER
        super().check_resume({k: v for k, v in overrides.items() if k != "distill_model"} if again else overrides)

    def setup_model(self) -> Any:
        """Build or load the student as the host does and wrap it.

        The host would rebuild a wrapper of its own around an interrupted run's student, so those are rebuilt here.
        """
        weights, ckpt = self._interrupted()
        if weights is None:
            ckpt = super().setup_model()
        else:
            self._resumed = weights
            student = weights.student_model
            self.model = self.get_model(cfg=student.yaml, weights=student, verbose=RANK in {-1, 0})
        config = self._kd_config()
        if config is not None:
            wrapper: Any = self._wrapped(config)
            self.model = wrapper
        return ckpt

    def set_model_attributes(self) -> None:
        """Give the net the data's names and the arguments, behind a wrapper too."""
        super().set_model_attributes()
        student = getattr(self.model, "student_model", None)
        if student is not None:
            student.nc, student.names, student.args = self.data["nc"], self.data["names"], self.args

    def student_loss_names(self) -> tuple[str, ...]:
        """Return the names of loss items that the student adds to the host's: none of a stock net."""
        return ()

    def get_validator(self) -> Any:
        """Return the host's validator; older hosts need the names of our loss items spelled out."""
        validator = super().get_validator()
        if isinstance(self.loss_names, tuple) and self.loss_names:
            self.loss_names = (*self.loss_names, *self._training_loss_names())
        return validator

    def _training_loss_names(self) -> tuple[str, ...]:
        """Return the names of loss items that only a training step has; validation gives zeros for them."""
        wrapper = self._wrapper()
        return (*self.student_loss_names(), *(wrapper.loss_names if wrapper else ()))

    def run_callbacks(self, event: str) -> None:
        """Run the host's callbacks; before training look at the teacher, at an epoch's end move the weights.

        Before each step the wrapper is told how far the training is: from the epoch's number, as a resumed run has it.
        """
        if event == "on_train_epoch_start":
            self._begun = 0
        elif event == "on_train_batch_start":
            self._begun += 1
            if (wrapper := self._wrapper()) is not None:
                wrapper.progress = self.epoch + self._begun / len(self.train_loader)
        wrapper = self._wrapper() if event in ("on_pretrain_routine_end", "on_train_epoch_end") else None
        if wrapper is not None and event == "on_pretrain_routine_end":
            self._introduce(wrapper)
        elif wrapper is not None:
            adaptive = wrapper.adaptive
            self._kd_metrics = {f"distill/w_{name}": round(adaptive[name], 5) for name in adaptive.names}
            adaptive.end_epoch()
            if self.ema:
                self.ema.ema.adaptive = deepcopy(adaptive)  # checkpoints are made of the average
        super().run_callbacks(event)

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Write the epoch's row of results.csv, with the weights in force and without losses that only training has.

        A table that was begun with them, by an earlier release, keeps them.
        """
        absent = {f"val/{name}" for name in self._training_loss_names()}
        if self.csv.exists():
            with self.csv.open(encoding="utf-8") as table:
                absent -= {name.strip() for name in table.readline().split(",")}
        shown = {name: value for name, value in metrics.items() if name not in absent}
        super().save_metrics({**shown, **(self._kd_metrics or {})})

    def save_model(self) -> Any:
        """Write the host's checkpoints, with the wrapper in those that a run goes on from and not in ``best.pt``.

        ``best.pt`` is at any time what the host makes of it at a run's end: the student alone.
        """
        wrapper = self._wrapper()
        if wrapper is None:
            return super().save_model()
        best, self.best = self.best, Path(os.devnull)  # the host writes one content to both
        ema: Any = self.ema
        ema.ema.exact_adapters = dict(wrapper.projector.state_dict())
        try:
            saved: Any = super().save_model()  # None on hosts before 8.4.130
        finally:
            self.best, ema.ema.exact_adapters = best, None
        if saved is not False and self.best_fitness == self.fitness:
            with at_level(LOGGER, logging.WARNING):
                strip_optimizer(self.last, str(best))
        return saved

    def _kd_config(self) -> KDConfig | None:
        """Return the settings of our distiller, None where there is no teacher or the host's distiller is wanted."""
        if not getattr(self.args, "distill_model", None):  # older hosts have no such argument
            return None
        if self._resumed is not None:
            return self._resumed.config
        kd = self.args.dsmoe_kd or self.default_kd
        return None if kd is None or (self.resume and self._is_hosts()) else resolve(kd)

    def _is_hosts(self) -> bool:
        """Whether the net is one that the host has wrapped already, from a checkpoint."""
        return hasattr(self.model, "student_model") and self._wrapper() is None

    def _interrupted(self) -> tuple[Any, Any]:
        """Return wrapper and checkpoint of a run of our distiller that is to go on, None and None otherwise."""
        if not self.resume or isinstance(self.model, nn.Module) or not getattr(self.args, "distill_model", None):
            return None, None
        from ultra_dsmoe.train.distill_wrapper import FeatureDistillation

        weights, ckpt = load_checkpoint(self.model)
        return (weights, ckpt) if isinstance(weights, FeatureDistillation) else (None, None)

    def _wrapped(self, config: KDConfig) -> FeatureDistillation:
        from ultra_dsmoe.train.distill_wrapper import FeatureDistillation

        student: Any = self.model
        student.args, student.task = self.args, self.args.task  # of the student alone, when it is exported
        kept = self._resumed
        wrapper = FeatureDistillation(student.to(self.device), self._teacher, config, kept and deepcopy(kept.adaptive))
        if kept is not None:
            wrapper.projector.load_state_dict(kept.exact_adapters or kept.projector.state_dict())
        return wrapper

    def _wrapper(self) -> FeatureDistillation | None:
        """Return our wrapper where the net is in one."""
        net: Any = getattr(self.model, "module", self.model)
        return net if hasattr(net, "adaptive") else None

    def _introduce(self, wrapper: FeatureDistillation) -> None:
        """Say who teaches what, and warn of a teacher that is worse than the student."""
        config, teacher = wrapper.config, Path(str(self.args.distill_model)).name
        strides = ", ".join(str(level.stride) for level in wrapper.levels)
        own = wrapper.method.about(wrapper.pair) if wrapper.pair else ""
        if RANK in {-1, 0}:
            adapters = sum(p.numel() for p in wrapper.projector.parameters())
            warmup = f", warm-up over {config.warmup:g} epochs" if config.warmup else ""
            LOGGER.info(
                f"distill: {config.method} from {teacher}, strides {strides}{own}, adaptive={config.adaptive}{warmup}, "
                f"{adapters:,} parameters in adapters"
            )
        if not config.compare or RANK != -1:  # several workers: the host's validator would wait for all of them
            return
        stats = self._validated(wrapper.teacher_model)
        reached = f"distill: {teacher} reaches mAP50-95 {stats[MAP]:.3f} (mAP50 {stats[MAP50]:.3f}) in validation"
        if not self._starts_with_weights:
            LOGGER.info(reached)
            return
        start = self._validated(wrapper.student_model)[MAP]
        worse = stats[MAP] < start
        LOGGER.log(
            logging.WARNING if worse else logging.INFO,
            f"{reached}, {'worse than the student, which starts at' if worse else 'the student starts at'} {start:.3f}",
        )

    def _validated(self, net: nn.Module) -> dict[str, float]:
        """Return the host's metrics of a copy of a net on the validation images."""
        args = copy(self.args)
        args.plots = args.save_json = args.save_txt = False
        with TemporaryDirectory() as folder, at_level(LOGGER, logging.WARNING):
            validator = DetectionValidator(self.test_loader, save_dir=Path(folder), args=args)
            return validator(model=deepcopy(net).eval())


class DistillTrainer(WorkerErrors, RunFolder, Checkpoints, Distilling, DetectionTrainer):
    """The host's detection trainer with our distiller, for students of stock layers."""

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        """Build the student as the host does and check its teacher.

        Raises:
            DSMoEError: If the teacher does not suit the student; no run folder remains.
        """
        try:
            model = super().get_model(cfg, getattr(weights, "student_model", weights), verbose)
            self.check_pair(model, weights)
        except DSMoEError:
            self.discard_run()
            raise
        return model
