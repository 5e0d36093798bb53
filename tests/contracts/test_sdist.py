"""The sdist holds all that its tests read and run, so that they run from the unpacked archive as from a checkout."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("ultra_dsmoe", "cfg", "tests", "benchmarks", "examples", "docs", ".ci", ".github")
FILES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "NOTICE", "Makefile", "mkdocs.yml")
MORE = ("noxfile.py", "pyproject.toml", ".pre-commit-config.yaml", "datasets/README.md", "datasets/pcb-demo.yaml")
BUILD_SECONDS = 300


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Build the sdist with the tools at hand; return its files, as seen from its top folder."""
    out = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    with tarfile.open(next(out.glob("*.tar.gz"))) as tar:
        return {name.partition("/")[2] for name in tar.getnames()}


def test_it_holds_what_the_checkout_holds(members: set[str]) -> None:
    inside = (p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.is_file())
    wanted = {p.relative_to(ROOT).as_posix() for p in inside if "__pycache__" not in p.parts} | {*FILES, *MORE}
    assert not wanted - members


def test_it_holds_no_images_weights_or_builds(members: set[str]) -> None:
    strangers = {n for n in members if n.endswith((".pt", ".onnx", ".engine", ".jpg", ".pyc", ".whl"))}
    assert not strangers
    assert not {n for n in members if n.partition("/")[0] in ("runs", "site", "dist", "pcb-demo", ".venv")}
