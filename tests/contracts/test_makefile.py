"""What `make` promises that no other test sees."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20
STAND_IN = """#!{sh}
for last; do :; done
[ "$last" = examples/01_demo.py ] || exit 1
exec {python} "${{@:1:$#-1}}" -c 'import sys; print("1/5 training"); sys.stdin.read(); sys.exit(3)'
"""


@pytest.mark.skipif(not (shutil.which("make") and shutil.which("bash")), reason="no make here")
def test_the_demo_shows_its_progress_through_a_pipe(tmp_path: Path) -> None:
    """As in ``make demo | tee log``: a line is there before the next step is done."""
    (tmp_path / "bin").mkdir()
    stand_in = tmp_path / "bin" / "python"
    stand_in.write_text(STAND_IN.format(sh=shutil.which("bash"), python=sys.executable))
    stand_in.chmod(0o755)
    command = ["make", "demo", f"VENV={tmp_path}"]
    # Without what would help it, and what a make around this test tells its own.
    inherited = {"PYTHONUNBUFFERED", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"}
    plain = {name: value for name, value in os.environ.items() if name not in inherited}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=plain, text=True, stdin=pipe, stdout=pipe) as demo:
        assert demo.stdin is not None
        assert demo.stdout is not None
        arrived, _, _ = select.select([demo.stdout], [], [], SECONDS)
        said = demo.stdout.readline() if arrived else ""
        demo.stdin.close()  # which ends the stand-in
    assert (said, demo.returncode) == ("1/5 training\n", 2), "make tells that its command ended with an error"
