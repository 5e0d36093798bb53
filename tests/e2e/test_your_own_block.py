"""The tutorial docs/your-own-block.md: its files run as the page shows them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PAGE = Path(__file__).resolve().parents[2] / "docs" / "your-own-block.md"
SHOWN = re.compile(r'^```\w+ title="([\w.-]+)"\n(.*?)^```', re.M | re.S)
FILES = ["own_block.py", "test_own_block.py", "own-net.yaml", "train_own.py", "use_own.py"]
SECONDS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_boards: Path) -> Path:
    """Return a folder with the page's files; its pcb-demo.yaml, which goes before the packaged one, has few boards."""
    made = tmp_path_factory.mktemp("own")
    shown = SHOWN.findall(PAGE.read_text(encoding="utf-8"))
    assert [name for name, _ in shown] == FILES
    for name, text in shown:
        (made / name).write_text(text, encoding="utf-8")
    boards = yaml.safe_load(tiny_boards.read_text(encoding="utf-8"))
    (made / "pcb-demo.yaml").write_text(yaml.safe_dump({**boards, "path": str(tiny_boards.parent)}), encoding="utf-8")
    return made


def run(folder: Path, *command: str) -> str:
    """Run Python there as a reader would; return what it printed."""
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_the_blocks_own_test_passes(folder: Path) -> None:
    assert "3 passed" in run(folder, "-m", "pytest", "-p", "no:cacheprovider", "test_own_block.py")


def test_it_trains_exports_and_loads_again(folder: Path) -> None:
    assert "parity: " in run(folder, "train_own.py"), "the export was not compared with the net"
    assert list(folder.glob("runs/*/weights/best.onnx"))
    moved = re.search(r"gains moved: ([\d.e-]+)", run(folder, "use_own.py"))
    assert moved is not None
    assert float(moved[1]) > 0


def test_the_commands_of_the_page_name_its_files() -> None:
    commands = re.findall(r"^    (?:python|pytest) (\S+)", PAGE.read_text(encoding="utf-8"), re.M)
    assert commands
    assert set(commands) <= set(FILES)
