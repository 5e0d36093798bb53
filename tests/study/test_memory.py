"""Cells wait for memory: when, how long, and what is said about it; both numbers are made up, or this process's own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ultra_dsmoe.study import memory as memories
from ultra_dsmoe.study import runner

GIB = 2**30
UNKNOWN = "what a cell takes of memory shows after an epoch of the first"


class Look:
    """What a look at memory finds."""

    def __init__(self, free: float) -> None:
        self.free, self.taken = free, {1: 0.0, 2: 0.0}

    def __call__(self, processes: Any) -> tuple[float, list[float]]:
        return self.free * GIB, [self.taken.get(p, 0.0) * GIB for p in processes]


def epoch(folder: Path) -> None:
    (folder / "train").mkdir(parents=True, exist_ok=True)
    (folder / "train" / "results.csv").write_text("epoch,time\n1,1\n")


def test_what_a_cell_waits_for(tmp_path: Path) -> None:
    look, never = Look(free=100.0), threading.Event()
    memory = memories.Memory(look, 0.01)
    first, second = tmp_path / "a", tmp_path / "b"
    assert memory.lack() == ""  # one always runs
    with memory.place(first, "a", never):
        memory.began(first, 1)
        look.taken[1] = 3.0
        assert memory.lack() == UNKNOWN
        epoch(first)
        assert memory.lack() == ""
        look.free = 2.9
        assert memory.lack() == "3.0 GiB of memory needed, 2.9 GiB free"
        look.free = 6.0
        look.taken[1] = 1.0  # the peak counts, up to which it may grow again
        assert memory.lack() == ""
        look.free = 4.9
        assert memory.lack() == "5.0 GiB of memory needed, 4.9 GiB free"
        look.free = 6.0
        with memory.place(second, "b", never):  # has not taken anything yet, but will
            assert memory.lack() == "8.0 GiB of memory needed, 6.0 GiB free"
    look.free = 0.0
    assert memory.lack() == ""
    # What a cell takes is known for good.
    with memory.place(second, "b", never):
        memory.began(second, 2)
        assert memory.lack() == "6.0 GiB of memory needed, 0.0 GiB free"


def test_a_validation_alone_tells_nothing(tmp_path: Path) -> None:
    """It takes less than a training; the epochs are of an earlier start."""
    memory = memories.Memory(Look(free=100.0), 0.01)
    for name in ("a", "b"):
        epoch(tmp_path / name)
        with memory.place(tmp_path / name, name, threading.Event()):
            assert memory.lack() == UNKNOWN


def test_the_peak_is_seen_while_nobody_waits(tmp_path: Path) -> None:
    seen = threading.Event()

    def look(processes: Any) -> tuple[float, list[float]]:
        first = not seen.is_set()
        seen.set()
        return 5.0 * GIB, [(4.0 if first else 1.0) * GIB for _ in processes]

    memory = memories.Memory(look, 0.01)
    with memory.place(tmp_path, "a", threading.Event()):
        epoch(tmp_path)
        with memory.watching():
            assert seen.wait(20)
        assert memory.lack() == "7.0 GiB of memory needed, 5.0 GiB free"


def test_study_waits_and_says_so_once(
    host_class: type[Any],
    write: Callable[..., Path],
    run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With memory for one, two jobs run one after the other."""
    under_way: set[str] = set()
    most = []

    class Counting(host_class):
        def __call__(self, command: list[str], **kwargs: Any) -> Any:
            child = super().__call__(command, **kwargs)
            under_way.add(command[-1])
            most.append(len(under_way))

            def wait() -> int:
                waited.wait(0.1)
                under_way.discard(command[-1])
                return 0

            child.wait = wait
            return child

    waited = threading.Event()
    make = runner.Memory
    monkeypatch.setattr(runner, "Memory", lambda look, seconds: make(lambda ids: (0.5, [1.0 for _ in ids]), seconds))
    code, out, err = run(write(), Counting(), "--jobs", "2")
    assert (code, err, max(most)) == (0, "", 1)
    assert out.count(" waits: ") <= 3
    assert " waits: " in out


def test_stopped_while_it_waits(tmp_path: Path) -> None:
    memory, stopped = memories.Memory(Look(free=0.0), 20.0), threading.Event()
    begun: list[float] = []

    def wait() -> None:
        with memory.place(tmp_path / "b", "b", stopped):
            begun.append(1)

    with memory.place(tmp_path / "a", "a", stopped):
        thread = threading.Thread(target=wait)
        thread.start()
        stopped.set()
        thread.join(10)
    assert begun == [1]


def test_own_processes() -> None:
    """A process counts with what it has started; one that has ended, or is yet to begin, has nothing."""
    code = "import sys; kept = bytearray(64 << 20); print(flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.readline()
    memory = memories.memory_for("cpu")
    free, (alone, tree, none) = memory._look([child.pid, os.getpid(), 0])
    assert 64 << 20 <= alone < tree
    assert tree >= psutil.Process().memory_info().rss * 0.9 + alone
    assert (none, 0 < free <= psutil.virtual_memory().total) == (0.0, True)
    child.stdin.close()
    child.stdout.close()
    child.wait()
    assert memory._look([child.pid])[1] == [0.0]


def test_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has gone since the start is shared out; where there is no GPU, the computer's memory counts."""
    answers, asked = [10.0, 4.0, 0.0], []

    def free(numbers: list[str]) -> float:
        asked.append(numbers)
        return answers.pop(0)

    monkeypatch.setattr(memories, "_gpu_free", free)
    memory = memories.memory_for([1, 0])
    assert memory._look([7, 8]) == (4.0, [3.0, 3.0])
    assert memory._look([7, 8]) == (0.0, [0.0, 0.0])  # no answer
    assert asked == [["1", "0"]] * 3
    for device, numbers in ((None, ["0"]), (-1, ["0"]), ("cuda:2", ["2"]), (0, ["0"])):
        answers[:] = [0.0]
        assert memories.memory_for(device)._look([0])[0] > GIB / 100
        assert asked[-1] == numbers
    count = len(asked)
    memories.memory_for("cpu")
    assert len(asked) == count


def test_a_gpu_is_asked_by_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real question, to a computer whose GPUs are hidden: no answer, and no context here."""
    import torch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert memories._gpu_free(["0"]) == 0.0
    assert not torch.cuda.is_initialized()
