"""User errors in distributed trainings: the process that started the workers raises what one of them found."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from pathlib import Path
from subprocess import CalledProcessError
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ultralytics.utils import LOCAL_RANK, RANK

from ultra_dsmoe.errors import DSMoEError

if TYPE_CHECKING:
    from ultra_dsmoe.train.run_folder import RunFolder

    Base = RunFolder
else:
    Base = object

VARIABLE = "ULTRA_DSMOE_WORKER_ERROR"  # names the file in which a worker leaves its error
LOOK_SECONDS = 0.2  # how often the others look
LEAVE_SECONDS = 2.0  # how long the one that failed waits for them: their peers' end would be an error to them


class WorkerErrors(Base):
    """Mixin before `RunFolder`: a user error is one line with many workers as with none.

    The host starts workers through torch's launcher, which prints the traceback of each and adds its own. So a worker
    leaves a user error in a file, and all of them end as if nothing had happened.
    """

    def train(self) -> Any:
        """Train as the host does.

        Raises:
            DSMoEError: If this process or a worker found one.
        """
        if LOCAL_RANK != -1:
            file = os.environ.get(VARIABLE)
            return self._train_as_worker(Path(file)) if file else super().train()
        with TemporaryDirectory() as folder:
            left = Path(folder) / "error"
            os.environ[VARIABLE] = str(left)
            try:
                trained: Any = super().train()
            except CalledProcessError:
                if not left.exists():
                    raise
            finally:
                del os.environ[VARIABLE]
            if left.exists():
                self.discard_run()  # a worker may have left before it could
                raise pickle.loads(left.read_bytes())
        return trained

    def _train_as_worker(self, left: Path) -> Any:
        threading.Thread(target=_leave_with_the_others, args=(left,), daemon=True).start()
        try:
            return super().train()
        except DSMoEError as e:
            own = left.with_name(f"error.{RANK}")
            own.write_bytes(pickle.dumps(e))
            os.replace(own, left)
            time.sleep(LEAVE_SECONDS)
            _leave()


def _leave_with_the_others(left: Path) -> None:
    """End this worker when another one has left an error; it may be waiting for that one within torch."""
    while not left.exists():
        time.sleep(LOOK_SECONDS)
    _leave()


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # any other code makes the launcher report it
