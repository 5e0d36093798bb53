"""A small study for the tests: a few boards, a study file, and a stand-in for the processes of its cells."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ultra_dsmoe import commands
from ultra_dsmoe.commands import study as command
from ultra_dsmoe.data.boards import demo
from ultra_dsmoe.errors import DSMoEError
from ultra_dsmoe.evaluate.bootstrap import mean_ap
from ultra_dsmoe.evaluate.evaluation import ImageStats
from ultra_dsmoe.study import runner
from ultra_dsmoe.study.reader import read_plan
from ultra_dsmoe.study.store import pack

IMAGES = 6


@pytest.fixture(scope="session")
def images() -> int:
    """Return how many of the boards are validated on."""
    return IMAGES


@pytest.fixture(scope="session")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data YAML of a few boards; the set is called ``boards``."""
    folder = tmp_path_factory.mktemp("set") / "boards"
    return demo.generate(folder, train=2, val=IMAGES, size=demo.MIN_SIZE)


@pytest.fixture
def content(boards: Path) -> dict[str, Any]:
    return {"name": "tiny", "models": ["yolov8n", {"name": "k2", "model": "dsmoe-n", "overrides": {"dsmoe_topk": 2}}],
            "data": [str(boards)], "epochs": 3, "imgsz": 64, "batch": 2, "seeds": [0, 1],
            "overrides": {"device": "cpu", "workers": 0, "classes": [0, 1]}}  # fmt: skip


@pytest.fixture
def write(tmp_path: Path, content: dict[str, Any]) -> Callable[..., Path]:
    """Return a function that writes the study file with some keys changed, or left out where they are None."""

    def write(**changes: Any) -> Path:
        file = tmp_path / "tiny.yaml"
        file.write_text(yaml.safe_dump({k: v for k, v in {**content, **changes}.items() if v is not None}))
        return file

    return write


@pytest.fixture
def plan(write: Callable[..., Path]) -> Any:
    return read_plan(write())


def image_stats(seed: int) -> ImageStats:
    """Return matches on as many images as the boards have to validate on."""
    rng = np.random.default_rng(seed)
    labels = [np.array([0.0, 1.0, float(i % 2)]) for i in range(IMAGES)]
    tp = [rng.random((4, 1)) < np.linspace(0.9, 0.2, 10) for _ in labels]
    cls = [np.array([0.0, 1.0, float(i % 2), 0.0]) for i in range(IMAGES)]
    return ImageStats([f"{i}.png" for i in range(IMAGES)], tp, [rng.random(4) for _ in labels], cls, labels)


@pytest.fixture
def fake_stats() -> Callable[[int], ImageStats]:
    """Return a function that makes up matches from a seed."""
    return image_stats


def endless(processes: Sequence[int]) -> tuple[float, list[float]]:
    """Stands in for a look at memory: there is always more than a cell has."""
    return 2.0, [1.0 for _ in processes]


class Host:
    """Stands in for `subprocess.Popen`: leaves behind what a training and a validation do.

    ``fail`` names a word of the command that fails, ``leave`` the epoch of the checkpoint that a failing one leaves,
    ``stats`` makes up what a validation finds, from the length of the cell's name as seed.
    """

    def __init__(
        self, fail: str = "", leave: int | None = None, stats: Callable[[int], ImageStats] = image_stats
    ) -> None:
        self.fail, self.leave, self.stats = fail, leave, stats
        self.commands: list[list[str]] = []
        self.switched: list[tuple[str, Any, str]] = []  # knock-outs: name, change, verdict

    def __call__(self, command: list[str], stdout: Any, **kwargs: Any) -> Any:
        self.commands.append(command)
        failed = bool(self.fail) and self.fail in " ".join(command)
        if command[1] == "train":
            given = dict(word.split("=", 1) for word in command[2:])
            folder = Path(given.get("save_dir", f"{given.get('project')}/train"))
            epoch = self.leave if failed else -1
            if epoch is not None:
                (folder / "weights").mkdir(parents=True, exist_ok=True)
                torch.save({"epoch": epoch}, folder / "weights" / "last.pt")
                (folder / "results.csv").write_text("epoch,time\n1,1\n")
        elif not failed:
            self.validate(Path(command[-1]))
            if "--knockouts" in command:
                rows = "".join(f"{name},,{change},{verdict}\n" for name, change, verdict in self.switched)
                (Path(command[-1]) / "knockout.csv").write_text(f"knockout,what,map50_change,verdict\n{rows}")
        if failed:
            stdout.write(b"Traceback\nRuntimeError: out of memory\n\n")
        ends = {"wait": lambda self: int(failed), "terminate": lambda self: None}
        return type("Process", (), {**ends, "pid": 0})()

    def validate(self, folder: Path) -> None:
        stats = self.stats(len(folder.name))
        np.savez(folder / "matches.npz", **pack(stats))
        scores = dict(zip(("mAP50", "mAP50-95"), map(float, mean_ap(stats)), strict=True))
        rest = {"precision": 0.5, "recall": 0.25, "seconds": 90.0, "prompt_hash": "abc", "per_class_AP": {"a": 0.5},
                "ultralytics": "8", "torch": "2", "ultra_dsmoe": "0"}  # fmt: skip
        (folder / "result.json").write_text(json.dumps({**scores, **rest}))


@pytest.fixture
def host_class() -> type[Host]:
    """Return the stand-in for `subprocess.Popen`; it writes matches as `store` does."""
    return Host


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs the command with a stand-in for processes and gives its code, output, errors."""

    def run(file: Path, host: Host | None = None, *more: str) -> tuple[int, str, str]:
        # Only this module's: git is asked through `subprocess.run`, which needs the real one.
        monkeypatch.setattr(runner, "commit", lambda: "c0ffee")
        monkeypatch.setattr(runner, "memory_for", lambda device: runner.Memory(endless, 0.01))
        monkeypatch.setattr(subprocess, "Popen", host or Host())
        places = ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
        monkeypatch.setattr(command.signal, "signal", lambda *_: None)
        wrong = ""
        try:
            code = commands.run(["study", str(file), *places, *more])
        except DSMoEError as e:  # as the script prints it
            code, wrong = 1, f"error: {e}\n"
        out, err = capsys.readouterr()
        assert code is not None
        return code, out, err + wrong

    return run
