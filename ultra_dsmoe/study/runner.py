"""The run matrix: brings every cell of a plan to its end and keeps what came out."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any

from ultra_dsmoe.constants import FINISHED
from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.files import write_files

from . import folders
from .checks import digest
from .memory import Memory, memory_for
from .overrides import FILES
from .plan import Cell, Plan
from .results_csv import append_row, disk_full_errors, read_rows
from .store import KEPT, KNOCKOUTS, MATCHES, RESULT, gather, read_kept
from .task import CLASSIFY

STARTS_PLUGINS = (2, 5)  # the first torch that loads what is registered with it
STAGES = ("new", "begun", "trained", "validated", "kept", "finished")


class CellError(RuntimeError):
    """A cell whose process failed; the others go on."""


@cache
def yolo_command() -> str:
    """Return this environment's ``yolo``, or, where torch is too old to start plugins, the same as ``dsmoe-yolo``.

    Raises:
        ConfigError: If there is none.
    """
    torch_version = tuple(map(int, importlib.metadata.version("torch").split(".")[:2]))
    name, beside = "yolo" if torch_version >= STARTS_PLUGINS else "dsmoe-yolo", Path(sys.executable).parent
    found = shutil.which(name, path=str(beside)) or shutil.which(name)
    if found is None:
        raise ConfigError(name, f"the console script of that name, in {beside} or on PATH", "none")
    return found


def commit() -> str:
    """Return the checkout's commit, with ``+dirty`` where tracked files were changed; empty outside of one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+dirty" if status.stdout.strip() else "")


def has_scikit_learn() -> bool:
    """Whether the classifiers of controls are installed."""
    return importlib.util.find_spec("sklearn") is not None


def last_epoch(file: Path) -> int | None:
    """Return the epoch of a checkpoint, `FINISHED` where its training is over, None where it cannot be gone on from."""
    import torch

    if not file.is_file():
        return None
    try:
        return int(torch.load(file, map_location="cpu", weights_only=False)["epoch"])
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError, zipfile.BadZipFile):
        return None  # the study was killed while the host wrote it


class Study:
    """A plan with its folder and its table.

    Attributes:
        plan: What to run.
        folder: One folder per cell.
        table: The CSV.
    """

    def __init__(self, plan: Plan, runs: Path, out: Path) -> None:
        """Look at what was already done.

        Raises:
            DataError: If a row or a cell's file is damaged, or a cell was run with other settings.
        """
        self.plan, self.out = plan, out
        self.folder, self.table = runs.resolve() / plan.name, out / f"{plan.name}.csv"
        self._children: set[subprocess.Popen[Any]] = set()
        self._locks: tuple[int, ...] = ()
        self._stopped = threading.Event()
        self._memory: Memory | None = None  # of cells side by side
        self.rows: dict[str, dict[str, Any]] = {}
        cells = {c.name: c for c in plan.cells()}
        for cell in cells.values():  # before the rows, since these files know what has changed
            self._check_settings(cell)
        for row in read_rows(self.table, plan.task):
            if row["cell"] in self.rows:
                raise DataError(str(self.table), "one row per cell; delete all but one", f"{row['cell']} twice")
            if row["cell"] in cells:
                cell = cells[row["cell"]]
                self.rows[cell.name] = row
                if row["settings_hash"] != self._hash(cell):
                    raise self._changed(cell, {"settings_hash": row["settings_hash"]})

    def _hash(self, cell: Cell) -> str:
        return digest(json.dumps(self.plan.settings(cell), sort_keys=True))

    def _check_settings(self, cell: Cell) -> None:
        file = self.folder / cell.name / "cell.json"
        if not file.is_file():
            return
        try:
            before = json.loads(file.read_text())["settings"]
        except (ValueError, KeyError, TypeError) as e:
            raise DataError(str(file), "the settings of a cell; delete the folder to run it again", str(e)) from e
        if before != json.loads(json.dumps(self.plan.settings(cell))):
            raise self._changed(cell, before)

    def _changed(self, cell: Cell, before: dict[str, Any]) -> DataError:
        now = {**self.plan.settings(cell), "settings_hash": self._hash(cell)}
        keys = sorted(before) if "settings_hash" in before else sorted({*before, *self.plan.settings(cell)})
        changed = [f"{k} {before.get(k)} -> {now.get(k)}" for k in keys if before.get(k) != now.get(k)]
        wanted = f"the settings it was run with (give the study another name, or delete its row and {cell.name}/)"
        return DataError(f"cell {cell.name}", wanted, "; ".join(changed))

    def stage(self, cell: Cell) -> str:
        """Return how far a cell is, one of `STAGES`."""
        folder = self.folder / cell.name
        if cell.name in self.rows:
            return "finished"
        if self._is_kept(cell):
            return "kept"
        if self._is_validated(folder):
            return "validated"
        epoch = last_epoch(folder / "train" / "weights" / "last.pt")
        return "new" if epoch is None else "trained" if epoch == FINISHED else "begun"

    def _made(self) -> list[str]:
        """Return the files that a validation leaves."""
        return [MATCHES, RESULT, *([KNOCKOUTS] if self.plan.knockouts else [])]

    def _is_validated(self, folder: Path) -> bool:
        return all((folder / name).is_file() for name in self._made())

    def _kept(self, cell: Cell) -> Path:
        return self.out / KEPT / f"{self._hash(cell)}.npz"

    def _is_kept(self, cell: Cell) -> bool:
        """Whether a cell of these settings was finished, here or in another study, with all that is wanted of it."""
        try:
            return read_kept(self._kept(cell)).knockouts is not None or not self.plan.knockouts
        except DataError:
            return False

    def run(self, jobs: int, train: bool = True) -> list[str]:
        """Run what is left, or only take over what is kept; return a line per cell that failed.

        Args:
            jobs: Cells side by side, at most.
            train: Whether to train and validate.
        """
        cells = self.plan.cells()
        stages = {c.name: self.stage(c) for c in cells}
        finished = sum(stage == "finished" for stage in stages.values())
        left = [c for c in cells if stages[c.name] == "kept" or (train and stages[c.name] != "finished")]
        if not has_scikit_learn():
            lack = [c for c in left if c.model.control and stages[c.name] == "new"]
            left = [c for c in left if c not in lack]
            for cell in lack:
                say(f"{cell.name} is left out: it needs scikit-learn (pip install 'ultra-dsmoe[data]')")
        if finished:
            say(f"{finished} of {len(cells)} cells are finished already")
        number, failed, begun = {c.name: i for i, c in enumerate(cells, 1)}, [], time.monotonic()
        self._memory = memory_for(self.plan.overrides.get("device")) if jobs > 1 and len(left) > 1 else None
        watching = self._memory.watching() if self._memory else nullcontext()
        with self._locked(), watching, ThreadPoolExecutor(jobs) as pool:
            work = {pool.submit(self._run_cell, c, f"cell {number[c.name]} of {len(cells)}: {c.name}"): c for c in left}
            try:
                for done, future in enumerate(as_completed(work), 1):
                    cell = work[future]
                    try:
                        row = future.result()
                    except CellError as e:
                        failed.append(f"{cell.name} failed: {e}")
                        say(failed[-1])
                        continue
                    append_row(self.table, row, self.plan.task)
                    self.rows[cell.name] = row
                    rest = (time.monotonic() - begun) / done * (len(left) - done)
                    found = ", ".join(f"{measure} {row[measure]:.3f}" for measure in self.plan.task.measures)
                    say(f"{cell.name}: {found}; {done} of {len(left)} done, about {duration(rest)} left")
            except BaseException:
                self._stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return failed

    def _run_cell(self, cell: Cell, title: str) -> dict[str, Any]:
        """Bring one cell to its end and return its row."""
        folder, stage = self.folder / cell.name, self.stage(cell)
        if stage == "kept":
            say(f"{title} (kept: equal settings were run before)")
            return self._row(cell)
        if stage != "validated":
            with self._memory.place(folder, title, self._stopped) if self._memory else nullcontext():
                self._work(cell, stage, title)
        try:
            content = gather(folder)
        except DataError as e:
            raise CellError(str(e)) from e
        file = self._kept(cell)
        with disk_full_errors(file, f"the matches of {cell.name}"):
            write_files(file.parent, {file.name: content})
        return self._row(cell)

    def _work(self, cell: Cell, stage: str, title: str) -> None:
        """Train, unless that is done, and validate."""
        if self._stopped.is_set():  # while it waited for memory
            raise CellError("stopped")
        say(f"{title} ({STARTS[stage]})")
        folder = self.folder / cell.name
        if stage == "new":
            shutil.rmtree(folder / "train", ignore_errors=True)  # the host would add to its results.csv
            content = {"settings": self.plan.settings(cell), "commit": commit()}
            own = {name: text.encode() for name, text in self.plan.files(cell).items()}
            write_files(folder, {**own, "cell.json": json.dumps(content, indent=2).encode()})
        if stage in ("new", "begun") and not cell.model.control:
            self._process(self._train_command(cell, resume=stage == "begun"), folder)
        more = ["--knockouts"] if self.plan.knockouts else []
        self._process([sys.executable, str(Path(__file__).with_name("cell.py")), *more, str(folder)], folder)

    def _train_command(self, cell: Cell, resume: bool) -> list[str]:
        """Return the words of a training."""
        folder = self.folder / cell.name
        if resume:
            place = {"model": folder / "train" / "weights" / "last.pt", "resume": True, "save_dir": folder / "train"}
            return [yolo_command(), "train", *(f"{k}={v}" for k, v in place.items())]
        words = {"plots": False, **self.plan.arguments(cell), "project": str(folder), "name": "train", "exist_ok": True}
        if self.plan.task is CLASSIFY:
            words |= {"task": CLASSIFY.name, "data": folders.place(words["data"])}
        for key in ("model", "dsmoe_prompts"):
            if words.get(key) in self.plan.files(cell):
                words[key] = folder / words[key]
        words |= {k: os.path.expandvars(words[k]) for k in FILES if isinstance(words.get(k), str)}
        return [yolo_command(), "train", *(f"{k}={v}".replace(", ", ",") for k, v in words.items())]

    def _process(self, command: list[str], folder: Path) -> None:
        """Run a command to its end, its words added to the cell's log.

        Raises:
            CellError: If it fails, or the study was stopped.
        """
        if self._stopped.is_set():
            raise CellError("stopped")
        file = folder / "log.txt"
        with file.open("ab") as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            # The lock goes along: a training that outlives a killed study keeps a second study away.
            child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, pass_fds=self._locks)
        self._children.add(child)
        if self._memory:
            self._memory.began(folder, child.pid)
        if self._stopped.is_set():  # in the meantime
            child.terminate()
        code = child.wait()
        self._children.discard(child)
        if code:
            lines = [line.strip() for line in file.read_text(errors="replace").splitlines() if line.strip()]
            raise CellError(f"{lines[-1][-200:]} (exit {code}, all of it in {file})")

    def _row(self, cell: Cell) -> dict[str, Any]:
        """Return the row of a cell that was kept."""
        result = read_kept(self._kept(cell)).result
        for key in self.plan.task.per_class:
            result[key] = ";".join(f"{name}={value:.4f}" for name, value in result[key].items())
        sizes = self.plan.sizes_of(cell.data)
        epochs = 0 if cell.model.control else sizes["epochs"]
        identity = {"study": self.plan.name, "cell": cell.name, "model": cell.model.name, "data": cell.data.name,
                    "seed": cell.seed, "epochs": epochs, "imgsz": sizes["imgsz"]}  # fmt: skip
        return {**identity, **result, "settings_hash": self._hash(cell), "data_hash": cell.data.digest}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep a second study of the same name away; Windows has no such lock and does without.

        Raises:
            DataError: If another process has it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            import fcntl
        except ImportError:
            yield
            return
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._locks = (handle,)
            yield
        except BlockingIOError as e:
            raise DataError(str(self.folder), "no other study at work there", "one, or a training that it left") from e
        finally:
            self._locks = ()
            os.close(handle)

    def _stop(self) -> None:
        self._stopped.set()
        for child in list(self._children):
            with suppress(OSError):
                child.terminate()


def say(line: str) -> None:
    """Print a line in one piece, whatever other threads print."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


STARTS = {"new": "from the start", "begun": "going on from its last checkpoint", "trained": "trained, to be validated"}


def duration(seconds: float) -> str:
    """Return a time in words."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
