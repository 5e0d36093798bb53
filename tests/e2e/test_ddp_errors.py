"""A user error in a distributed training is one line, as in one process, whichever worker finds it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("ddp_launch.py")
SECONDS = 300


@pytest.mark.parametrize(
    ("word", "message"),
    [
        pytest.param("dsmoe_topk=99", "error: topk: expected 'auto' or an integer from 1 to 32", id="all workers"),
        pytest.param(
            "seed=1",
            "error: labels: expected a file that this worker can read, got none",
            id="one worker",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_user_error_is_one_line(word: str, message: str, tiny_boards: Path, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(SCRIPT.parent), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tiny_boards), str(tmp_path / "runs"), word],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert "torch.distributed.run" in said, "no worker was started"
    assert done.returncode == 1, said[-3000:]
    assert "Traceback" not in said
    assert done.stderr.strip().splitlines()[-1].startswith(message)
    assert not list((tmp_path / "runs").rglob("*"))
