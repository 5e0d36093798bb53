"""A run that survives being killed: its checkpoints are whole at any time, and it goes on with one row per epoch."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from ultralytics.utils import RANK

from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.files import sync
from ultra_dsmoe.train.generations import (
    BEST,
    LAST,
    PREVIOUS,
    beside,
    flaw,
    forget_epochs,
    keep,
    stripping_beside,
)

if TYPE_CHECKING:
    from ultralytics.models.yolo.detect import DetectionTrainer

    Base = DetectionTrainer
else:
    Base = object

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
WRITER = "PytorchStreamWriter"  # in torch's own error where it cannot write a file


class Checkpoints(Base):
    """Mixin before `DetectionTrainer` that writes checkpoints beside their place, and reads them back as they are.

    The host writes into ``last.pt`` and ``best.pt`` themselves: killed while it does, it leaves half of each.
    """

    def train(self) -> Any:
        """Train as the host does.

        Raises:
            DataError: If the disk is full or cannot be written; what was written before stands.
        """
        try:
            return super().train()
        except (OSError, RuntimeError) as e:
            full = e.errno in NO_ROOM if isinstance(e, OSError) else WRITER in str(e)
            if not full:
                raise
            reason = getattr(e, "strerror", None) or "a file that cannot be written"
            what = "its last checkpoint is whole" if self.last.exists() else "nothing was saved yet"
            raise DataError(str(self.save_dir), "a disk that can be written", f"{reason}; {what}") from e

    def save_model(self) -> Any:
        """Write the host's checkpoints beside their places, then rename them; the last but one stays too."""
        places = self.wdir, self.last, self.best
        sync(self.csv)  # never behind the checkpoint, even where the machine stops
        with beside(self.wdir) as side:
            self.wdir, self.last, self.best = side, side / LAST, side / BEST
            try:
                saved: Any = super().save_model()  # None on hosts before 8.4.130
            finally:
                self.wdir, self.last, self.best = places
            if (side / LAST).exists() and not flaw(self.last):  # the run may have gone on from another
                keep(self.last, side / PREVIOUS)
        return saved

    def final_eval(self) -> None:
        """Strip the checkpoints as the host does, but beside their places, and validate the best."""
        token = stripping_beside.set(True)
        try:
            super().final_eval()
        finally:
            stripping_beside.reset(token)
        if RANK in {-1, 0}:
            (self.wdir / PREVIOUS).unlink(missing_ok=True)

    def resume_training(self, ckpt: Any) -> None:
        """Go on where a checkpoint was written; epochs after it, which come again, leave the results.

        Raises:
            ConfigError: If all epochs are trained.
        """
        try:
            super().resume_training(ckpt)
        except AssertionError as e:
            expected = "a run with epochs left to train"
            raise ConfigError("resume", expected, f"{self.args.model}, whose training is finished") from e
        if self.resume and ckpt is not None and RANK in {-1, 0}:
            forget_epochs(self.csv, self.start_epoch)
