"""The folder of a training that never began: taken away again, so that an error leaves nothing half-written."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralytics.cfg import get_save_dir
from ultralytics.utils import LOCAL_RANK, RANK

if TYPE_CHECKING:
    from ultralytics.models.yolo.detect import DetectionTrainer

    Base = DetectionTrainer
else:
    Base = object

OF_THE_HOST = ("args.yaml", "labels", "train_batch")  # how the files begin that the host writes before any weights


class RunFolder(Base):
    """Mixin before `DetectionTrainer` that knows which folders the host makes for this very run.

    The host makes the run's folder, with its arguments and a place for weights, before it looks at data and weights.
    """

    _absent: tuple[Path, ...] = ()  # the run's folder and those above it that did not exist before, innermost first

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Settle arguments, run folder and data as the host does; no run folder remains where that ends."""
        try:
            super().__init__(*args, **kwargs)
        except (Exception, KeyboardInterrupt):  # whatever its reason, it goes on as it came
            if hasattr(self, "wdir"):  # else there is no folder yet
                self.discard_run()
            raise

    def check_resume(self, overrides: Any) -> None:
        """Settle the arguments as the host does; the folder that they lead to is not made yet."""
        super().check_resume(overrides)
        folder = Path(get_save_dir(self.args))
        self._absent = tuple(f for f in (folder, *folder.parents) if not f.exists())

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the host does; no run folder remains where that ends before there are weights."""
        try:
            return super().train(*args, **kwargs)
        except (Exception, KeyboardInterrupt):  # whatever its reason, it goes on as it came
            self.discard_run()
            raise

    def discard_run(self) -> None:
        """Remove what the host has made for this run before there are weights, unless something else is in it.

        A folder that existed before stays. That of a distributed run was made by the process that started this one.
        """
        if RANK not in {-1, 0} or self.resume or not (self.save_dir in self._absent or LOCAL_RANK != -1):
            return
        made = [path for path in self.save_dir.glob("*") if path.name.startswith(OF_THE_HOST)]
        if {*made, self.wdir} >= {*self.save_dir.glob("*")} and not any(self.wdir.glob("*")):
            for path in made:
                path.unlink()
            for folder in (self.wdir, self.save_dir, *self._absent):
                with contextlib.suppress(OSError):  # gone already, or in use by another run
                    folder.rmdir()
