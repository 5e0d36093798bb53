"""Shared set-up of all tests: nothing reads or writes the user's settings, caches or network.

Fixtures for test writers:

- `tiny_boards`: data YAML of a small generated board set, made once per test run.
- `shared_data`: unpacks one of the labelled sets beside the project, skips where they are absent (marker ``realdata``).
- `run_yolo`: runs a console script (``yolo`` by default) in a fresh process, as a user would.

In this process the host saves runs without an absolute ``project=`` below its own installation folder (it detects
pytest), so tests that train or predict pass ``project=tmp_path``. `run_yolo` hides pytest from its child instead.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
SEED = 0
BOARD_PIXELS = 96
CHILD_SECONDS = 600

# Before anything imports the host: it reads the variables at import. One folder per process, since workers of a
# parallel run would otherwise write the same settings file.
_HOME = Path(tempfile.mkdtemp(prefix="ultra-dsmoe-tests-"))
os.environ.update(
    YOLO_CONFIG_DIR=str(_HOME / "host"),
    ULTRA_DSMOE_CACHE=str(_HOME / "cache"),
    YOLO_OFFLINE="true",
    YOLO_AUTOINSTALL="false",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    MPLBACKEND="Agg",
)
for _variable in ("ULTRA_DSMOE_DISABLE", "TORCH_DEVICE_BACKEND_AUTOLOAD", "ULTRALYTICS_SAFE_LOAD"):
    os.environ.pop(_variable, None)  # the user's own switches would change what is tested

# Fixtures that several folders share; imported behind the lines above.
pytest_plugins = (
    "checkpoint_fixtures",
    "data_fixtures",
    "export_fixtures",
    "reference_fixtures",
    "second_stage_fixtures",
    "training_fixtures",
)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove this process's settings and caches."""
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    """Start every test from the same random state, on one thread."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


def _shared_folder(tmp_path_factory: pytest.TempPathFactory, config: pytest.Config) -> Path:
    """Return the folder that all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if hasattr(config, "workerinput") else base


def _once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Fill ``folder`` by ``make`` once per run, whichever worker comes first; a failed attempt is started anew."""
    complete = folder.with_name(f"{folder.name}.complete")
    with FileLock(f"{folder}.lock"):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            complete.touch()
    return folder


@pytest.fixture(scope="session")
def tiny_boards(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """Return the data YAML of a generated board set: 8 training and 4 validation images of 96 px, all six defects."""
    from ultra_dsmoe.data.boards import demo

    folder = _shared_folder(tmp_path_factory, pytestconfig) / "tiny-boards"
    _once(folder, lambda root: demo.generate(root, train=8, val=4, seed=SEED, size=BOARD_PIXELS))
    return next(folder.glob("*.yaml"))


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Callable[[str], Path]:
    """Return a function that unpacks a labelled set, such as ``DeepPCB-mini``, and returns its ``data.yaml``."""
    base = _shared_folder(tmp_path_factory, pytestconfig)

    def unpack(name: str) -> Path:
        archive = SHARED_DATA / f"{name}.tar"
        if not archive.is_file():
            pytest.skip(f"{name} is not beside the project")

        def extract(root: Path) -> None:
            with tarfile.open(archive) as tar:
                tar.extractall(root, filter="data")

        return next(_once(base / name, extract).rglob("data.yaml"))

    return unpack


@pytest.fixture
def run_yolo(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs ``yolo`` in a fresh process from an empty folder and captures its output.

    ``run_yolo("train", "model=dsmoe-n.yaml", cwd=..., env={"K": "V"}, script="dsmoe-yolo", check=False)``: a failing
    command fails the test with the end of its output, unless ``check`` is False.
    """

    def run(
        *arguments: str,
        cwd: Path = tmp_path,
        env: dict[str, str] | None = None,
        script: str = "yolo",
        check: bool = True,
        timeout: float = CHILD_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        command = [sys.executable, str(Path(sysconfig.get_path("scripts")) / script), *arguments]
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**clean, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            ending = f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
            pytest.fail(f"{script} {' '.join(arguments)} exited with {done.returncode}:\n{ending}")
        return done

    return run
