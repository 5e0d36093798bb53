"""Contract tests against every supported Ultralytics: ``nox -s hosts``, or ``nox -s hosts -- 8.3.200`` for one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
# Oldest, the last before restricted loading and distillation, the first with both, one after it, what is installed.
HOSTS = ("8.3.200", "8.4.60", "8.4.80", "8.4.101", "installed")
TESTS = ("tests/plugin", "tests/contracts", "tests/e2e/test_classify.py")
OVERLAYS = Path(sys.prefix) / "hosts"


def overlay(version: str) -> Path:
    """Return a folder that holds that Ultralytics and nothing else; everything else comes from this environment.

    It goes before the environment's own on the path, so that no second torch is installed.
    """
    folder = OVERLAYS / version
    if not (folder / "ultralytics").is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*command, f"ultralytics=={version}"], check=True)
    return folder


@nox.session(venv_backend="none")
def hosts(session: nox.Session) -> None:
    """Run the plugin's contract tests and a classifier on the hosts named after ``--``, all supported by default."""
    for version in session.posargs or HOSTS:
        path = [] if version == "installed" else [str(overlay(version))]
        if inherited := os.environ.get("PYTHONPATH"):
            path.append(inherited)
        expected = "" if version == "installed" else version
        session.run(
            sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *TESTS,
            env={"PYTHONPATH": os.pathsep.join(path), "ULTRA_DSMOE_TEST_HOST": expected},
        )  # fmt: skip
