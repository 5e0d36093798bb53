"""Runs a test file against a broken module, in a fork of a process that has the slow imports behind it.

Nothing is written into the package: the fork's importer is given the broken source. So a test that starts a process of
its own sees the whole module there.
"""

from __future__ import annotations

import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

# What the tests need and what takes its time; the plugin and the host are imported by each fork anew.
SLOW = ("torch", "torchvision", "numpy", "cv2", "yaml", "scipy.stats", "timm", "geoopt", "matplotlib.pyplot", "onnx",
        "onnxruntime", "pytest")  # fmt: skip
MEMORY = 6 << 30  # bytes that one fork may take: a broken size must not take the machine down (our choice)
POLL_S = 0.02
NO_TESTS = 5  # pytest's exit code where it found none


class Outcome(NamedTuple):
    """What a test file said: pytest's exit code, None past the time limit."""

    code: int | None
    seconds: float
    log: str

    @property
    def passed(self) -> bool:
        """Whether all tests passed."""
        return self.code == 0


def warm() -> None:
    """Import what is slow, as far as it is installed."""
    for name in SLOW:
        if importlib.util.find_spec(name.split(".")[0]):
            importlib.import_module(name)
    gc.freeze()  # the collector would touch, and so copy, all that the forks share


def tried(test: Path, limit_s: float, broken: tuple[str, Path, str]) -> Outcome:
    """Run a test file in a fork, with one module's source replaced.

    A module that is imported before the tests are cannot be replaced: no test passes then.

    Args:
        test: The test file.
        limit_s: Seconds after which the fork is ended, with all that it started.
        broken: Name of the module, its file and the source to take for it.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        log = Path(scratch) / "log"
        child = os.fork()
        if not child:
            _run(test, broken, log, Path(scratch))
        code = _waited(child, start + limit_s)
        return Outcome(code, time.monotonic() - start, log.read_text(errors="replace") if log.exists() else "")


def _waited(child: int, until: float) -> int | None:
    """Return the exit code of a fork, None where it had to be ended."""
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(POLL_S)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:  # it has no group of its own yet
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _run(test: Path, broken: tuple[str, Path, str], log: Path, scratch: Path) -> None:
    """Be the fork: run the tests and leave with pytest's exit code, whatever happens."""
    code = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        sys.stdout = sys.stderr = log.open("w")
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stdout.fileno(), 2)
        os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take half of a short test's time
        code = _pytest([str(test), "-x", "-p", "no:cacheprovider", "--tb=short"], *broken)
    except BaseException:  # nothing may leave the fork and go on as its parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _pytest(arguments: Sequence[str], name: str, path: Path, source: str) -> int:
    import pytest

    assert name not in sys.modules, f"{name} is imported already"
    sys.meta_path.insert(0, _Swap(name, path, source))
    return int(pytest.main(list(arguments)))


class _Broken(importlib.machinery.SourceFileLoader):
    """Loads other source than the file holds."""

    source = ""

    def get_code(self, fullname: str) -> CodeType:
        """Return the broken source, compiled; no byte code is kept."""
        return compile(self.source, self.path, "exec", dont_inherit=True)


class _Swap(importlib.abc.MetaPathFinder):
    """Finds the broken module before any other finder does."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self.name, self.path, self.source = name, path, source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the broken module's spec."""
        if fullname != self.name:
            return None
        loader = _Broken(fullname, str(self.path))
        loader.source = self.source
        return importlib.util.spec_from_file_location(fullname, self.path, loader=loader)
