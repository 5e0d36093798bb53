"""Whether memory holds a further cell of a study beside those that run: the computer's, or a GPU's for a study there.

A cell is taken to need what the largest one of this study has had so far. That is known as soon as one has trained and
validated an epoch, or has ended; before that, nothing is started beside it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

SECONDS = 2.0  # between two looks at processes (our choice)
GPU_SECONDS = 60.0  # every look starts a process; a training gives nothing back before it ends (our choice)
ASK_GPU = "import sys, torch; print(min(torch.cuda.mem_get_info(int(i))[0] for i in sys.argv[1:]))"

GIB = 2**30

Look = Callable[[Sequence[int]], tuple[float, list[float]]]  # ids of processes -> bytes free, bytes that each has


class Memory:
    """Keeps cells waiting that memory does not hold yet."""

    def __init__(self, look: Look, seconds: float) -> None:
        """Take what to look with, and how often."""
        self._look, self._seconds = look, seconds
        self._running: dict[Path, int] = {}  # folder -> its process, 0 between two
        self._before: dict[Path, int] = {}  # folder -> age of its table of epochs at the start
        self._largest, self._known = 0.0, False
        self._lock, self._turn = threading.Lock(), threading.Lock()

    def began(self, folder: Path, process: int) -> None:
        """Note the process that now does a cell's work."""
        with self._lock:
            self._running[folder] = process

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look again and again while the study runs, since a cell may have its most for a short while only."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(self._seconds):
                self.lack()

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            over.set()

    @contextmanager
    def place(self, folder: Path, title: str, stopped: threading.Event) -> Iterator[None]:
        """Wait until a cell fits, or the study is stopped; it has its place until the block ends."""
        with self._turn:
            said = False
            while not stopped.is_set() and (lack := self.lack()):
                if not said:
                    print(f"{title} waits: {lack}", flush=True)
                said = True
                stopped.wait(self._seconds)
            with self._lock:
                self._running[folder], self._before[folder] = 0, _age(folder)
        try:
            yield
        finally:
            with self._lock:
                self._known = self._known or _age(folder) != self._before[folder]
                del self._running[folder]

    def lack(self) -> str:
        """Look at memory and return what a further cell waits for; nothing where it fits, or would run alone."""
        with self._lock:
            if not self._running:
                return ""
            free, taken = self._look(list(self._running.values()))
            self._largest = max(self._largest, *taken)
            self._known = self._known or any(_age(f) != self._before[f] for f in self._running)
            needed = self._largest + sum(self._largest - t for t in taken)  # those that run may still grow
        if not self._known:
            return "what a cell takes of memory shows after an epoch of the first"
        return "" if free >= needed else f"{needed / GIB:.1f} GiB of memory needed, {free / GIB:.1f} GiB free"


def _age(folder: Path) -> int:
    file = folder / "train" / "results.csv"
    return file.stat().st_mtime_ns if file.is_file() else 0


def memory_for(device: object) -> Memory:
    """Return the memory that trainings on one of the host's devices share; of several GPUs the fullest counts.

    A GPU is asked by a process of its own, so that this one never holds a context there. What a cell has on it is its
    share of what has gone since the start: drivers do not know the processes of a container by their ids.
    """
    numbers = re.findall(r"(?<![-\d])\d+", str(device)) or ["0"]  # the host takes the first where none is named
    before = 0.0 if str(device).lower() in ("cpu", "mps") else _gpu_free(numbers)
    if not before:
        return Memory(lambda ids: (psutil.virtual_memory().available, [_tree(i) for i in ids]), SECONDS)

    def look(ids: Sequence[int]) -> tuple[float, list[float]]:
        free = _gpu_free(numbers)
        return free, [max(0.0, before - free) / len(ids) if free else 0.0] * len(ids)

    return Memory(look, GPU_SECONDS)


def _gpu_free(numbers: list[str]) -> float:
    """Return the free bytes, 0 where there is no such GPU, or no room on it for a context."""
    try:
        asked = subprocess.run([sys.executable, "-c", ASK_GPU, *numbers], capture_output=True, text=True, check=True)
        return float(asked.stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return 0.0


def _tree(process: int) -> float:
    """Return the bytes of a process and all below it; pages that they share count for each, on the safe side."""
    try:
        root = [psutil.Process(process)] if process else []
        return float(sum(p.memory_info().rss for top in root for p in (top, *top.children(recursive=True))))
    except psutil.Error:  # one has ended in the meantime
        return 0.0
