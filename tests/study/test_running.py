"""The run matrix: what is run, resumed, shared and refused; processes are stood in for."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from ultra_dsmoe.commands.study import results
from ultra_dsmoe.constants import FINISHED
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.study import runner
from ultra_dsmoe.study.results_csv import read_rows

PATIENCE = 120  # seconds until a stand-in gives up, on a busy machine
DSMOE_YOLO = (sys.executable, "-m", "ultra_dsmoe.cli")
CHECKOUT = Path(__file__).resolve().parents[2]


def test_whole_study(
    host_class: type[Any], write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    host = host_class()
    code, out, err = run(write(), host)
    assert (code, err) == (0, "")
    assert "cell 4 of 4: boards-k2-1 (from the start)" in out
    assert "4 of 4 done, about 0 min left" in out
    assert "boards, k2 against yolov8n, mAP50: no evidence of a difference (" in out
    rows = read_rows(tmp_path / "out" / "tiny.csv")
    assert [r["cell"] for r in rows] == ["boards-yolov8n-0", "boards-k2-0", "boards-yolov8n-1", "boards-k2-1"]
    assert {r["commit"] for r in rows} == {"c0ffee"}
    train = host.commands[2]
    assert {"model=dsmoe-n.yaml", "dsmoe_topk=2", "seed=0", "imgsz=64", "classes=[0,1]", "exist_ok=True"} <= set(train)
    page = (tmp_path / "out" / "tiny.md").read_text()
    assert f"| boards | k2 | {rows[1]['mAP50']:.3f} (" in page
    assert (tmp_path / "out" / "tiny.png").read_bytes().startswith(b"\x89PNG")
    # Again: nothing is run, the page is the same.
    host = host_class()
    assert run(write(), host)[0] == 0
    assert host.commands == []
    assert (tmp_path / "out" / "tiny.md").read_text() == page
    assert len(read_rows(tmp_path / "out" / "tiny.csv")) == 4


def test_cells_of_another_study(
    host_class: type[Any], write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    """What was run with equal settings is not run again; another setting is another run."""
    run(write())
    host = host_class()
    models = ["yolov8n", {"name": "again", "model": "dsmoe-n", "overrides": {"dsmoe_topk": 2}}, "yolo11n"]
    code, out, _ = run(write(name="other", models=models, seeds=[0]), host)
    assert code == 0
    assert "cell 2 of 3: boards-again-0 (kept: equal settings were run before)" in out
    assert [next(w for w in c if w.startswith("model=")) for c in host.commands[::2]] == ["model=yolo11n.yaml"]
    first, second = (read_rows(tmp_path / "out" / f"{name}.csv")[1] for name in ("tiny", "other"))
    mine = {"study", "cell", "model"}
    assert {k: v for k, v in first.items() if k not in mine} == {k: v for k, v in second.items() if k not in mine}
    # Without the knock-outs that another study wants of it, a cell is of no use there.
    host = host_class()
    assert run(write(name="third", models=models[1:2], seeds=[0], knockouts=True), host)[0] == 0
    assert len(host.commands) == 2


def test_side_by_side(
    host_class: type[Any], write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    """Two trainings are under way at once: after an epoch, each waits for the other to have begun."""
    both = threading.Barrier(2, timeout=PATIENCE)

    class Together(host_class):
        def __call__(self, command: list[str], **kwargs: Any) -> Any:
            child = super().__call__(command, **kwargs)
            if command[1] == "train":
                both.wait()
            return child

    assert run(write(), Together(), "--jobs", "2")[0] == 0
    assert len(read_rows(tmp_path / "out" / "tiny.csv")) == 4


def lasting(host_class: type[Any], meets: bool = False) -> Any:
    """Return a stand-in whose training of dsmoe-n with seed 0 lasts until it is ended.

    Args:
        host_class: The stand-in whose trainings end at once.
        meets: Whether validations wait until that training has begun.
    """

    class Lasting(host_class):
        def __init__(self) -> None:
            super().__init__()
            self.stopped, self.begun = threading.Event(), threading.Event()

        def __call__(self, command: list[str], **kwargs: Any) -> Any:
            if "seed=0" in command and "model=dsmoe-n.yaml" in command:
                self.commands.append(command)
                (train := Path(next(w for w in command if w.startswith("project="))[8:]) / "train").mkdir()
                (train / "results.csv").write_text("epoch,time\n1,1\n")  # else the other waits, should this be first
                self.begun.set()
                ends = {"wait": lambda process: self.wait(), "terminate": lambda process: self.stopped.set()}
                return type("Process", (), {**ends, "pid": 0})()
            if meets and command[1] != "train":
                assert self.begun.wait(PATIENCE)
            return super().__call__(command, **kwargs)

        def wait(self) -> int:
            return -15 if self.stopped.wait(PATIENCE) else 0

    return Lasting()


def test_stopped(
    host_class: type[Any],
    write: Callable[..., Path],
    run: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    """Ctrl-C ends what is running, begins nothing else, and leaves the rows that are there."""
    added = runner.append_row

    def add_and_stop(*row: Any) -> None:
        added(*row)
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "append_row", add_and_stop)
    host = lasting(host_class)
    code, _, err = run(write(), host)
    assert (code, err) == (130, "study: stopped; the same command goes on from here\n")
    assert len(read_rows(tmp_path / "out" / "tiny.csv")) == 1
    assert not any("seed=1" in command for command in host.commands[3:])
    assert host.stopped.is_set() or len(host.commands) == 2


def test_full_disk(
    host_class: type[Any],
    write: Callable[..., Path],
    run: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first row does not fit: one line, the other training ends, and nothing is trained twice later."""
    write_elsewhere = os.write

    def full(handle: int, content: bytes) -> int:
        if table.exists() and os.path.samestat(os.fstat(handle), table.stat()):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_elsewhere(handle, content)

    file, host, table = write(seeds=[0]), lasting(host_class, meets=True), tmp_path / "out" / "tiny.csv"
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        code, _, err = run(file, host, "--jobs", "2")
    assert code == 1
    assert err == f"error: {table}: expected space for the row of boards-yolov8n-0, got No space left on device\n"
    assert host.stopped.is_set()
    host = host_class()
    code, _, err = run(file, host)
    assert (code, err) == (0, "")
    assert [c[1] for c in host.commands if "model=dsmoe-n.yaml" in c] == ["train"]
    assert len(host.commands) == 2  # training and validation of the one that was ended
    assert [r["cell"] for r in read_rows(table)] == ["boards-yolov8n-0", "boards-k2-0"]


def test_full_disk_before_a_training(
    host_class: type[Any],
    write: Callable[..., Path],
    run: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(folder: Path, files: dict[str, bytes]) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    host = host_class()
    with monkeypatch.context() as patched:
        patched.setattr(runner, "write_files", full)
        code, _, err = run(write(), host)
    folder = tmp_path / "runs" / "tiny"
    assert (code, host.commands) == (1, [])
    assert err == f"error: {folder}: expected space for the files of its cells, got {os.strerror(errno.EDQUOT)}\n"
    assert run(write(), host)[0] == 0


def test_failed_cell_goes_on(
    host_class: type[Any], write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    """A training that dies takes no other with it, and goes on from its checkpoint the next time."""
    file = write(seeds=[0])
    code, out, err = run(file, host_class(fail="model=yolov8n.yaml", leave=1))
    assert code == 1
    assert "boards-yolov8n-0 failed: RuntimeError: out of memory (exit 1, all of it in " in out
    assert "1 of 2 cells failed; the same command tries again" in err
    assert "unfinished: 1 of 2 runs are missing" in (tmp_path / "out" / "tiny.md").read_text()
    host = host_class()
    assert run(file, host)[0] == 0
    train, validate = host.commands
    last = tmp_path / "runs" / "tiny" / "boards-yolov8n-0" / "train" / "weights" / "last.pt"
    assert f"model={last}" in train
    assert "resume=True" in train
    assert Path(validate[1]).name == "cell.py"


def test_stages(plan: Any, tmp_path: Path) -> None:
    """A checkpoint that was cut off while it was written is no start; a finished one needs no training."""
    made = runner.Study(plan, tmp_path, tmp_path)
    cell = plan.cells()[0]
    last = tmp_path / "tiny" / cell.name / "train" / "weights" / "last.pt"
    assert made.stage(cell) == "new"
    last.parent.mkdir(parents=True)
    torch.save({"epoch": 1}, last)
    assert made.stage(cell) == "begun"
    last.write_bytes(last.read_bytes()[:200])
    assert made.stage(cell) == "new"
    torch.save({"epoch": -1}, last)
    assert made.stage(cell) == "trained"
    (tmp_path / "tiny" / cell.name / "result.json").write_text("{}")
    assert made.stage(cell) == "trained"
    (tmp_path / "tiny" / cell.name / "matches.npz").touch()
    assert made.stage(cell) == "validated"
    with pytest.raises(runner.CellError, match="expected a cell's files; delete the folder to run it again, got dam"):
        made._run_cell(cell, "")


@pytest.mark.parametrize(("version", "name"), [("2.3.1+cu121", "dsmoe-yolo"), ("2.15.0", "yolo")])
def test_yolo_of_this_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, name: str) -> None:
    monkeypatch.setattr(runner.importlib.metadata, "version", lambda package: version)
    monkeypatch.setattr(runner.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "")
    runner.yolo_command.cache_clear()
    with pytest.raises(ConfigError, match=rf"^{name}: expected the console script of that name, in {tmp_path} or on"):
        runner.yolo_command()
    (tmp_path / name).touch(mode=0o755)
    assert runner.yolo_command() == str(tmp_path / name)
    runner.yolo_command.cache_clear()


def test_dry_run(host_class: type[Any], write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path) -> None:
    host = host_class()
    code, out, _ = run(write(), host, "--dry-run")
    assert (code, host.commands) == (0, [])
    assert out.splitlines()[0] == "boards-yolov8n-0: new"
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "runs").exists()


def test_report_only(
    host_class: type[Any], write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    """What is kept gets its row and its place on the page; nothing is trained."""
    run(write(seeds=[0]))
    (tmp_path / "out" / "tiny.csv").unlink()
    host = host_class()
    code, out, _ = run(write(), host, "--report")
    assert (code, host.commands) == (0, [])
    assert [r["cell"] for r in read_rows(tmp_path / "out" / "tiny.csv")] == ["boards-yolov8n-0", "boards-k2-0"]
    assert "unfinished: 2 of 4 runs are missing" in out
    assert "| boards | k2 | " in (tmp_path / "out" / "tiny.md").read_text()
    assert run(write(), host, "--report")[1].startswith("2 of 4 cells are finished already\n")


def test_changed_settings(
    host_class: type[Any], write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    """Named with what changed where the cell's folder is there, by the hash alone where only the row is."""
    run(write())
    host = host_class()
    code, _, err = run(write(epochs=5), host)
    assert (code, host.commands, len(err.splitlines())) == (1, [], 1)
    assert "error: cell boards-yolov8n-0: expected the settings it was run with" in err
    assert err.endswith("got epochs 3 -> 5\n")
    shutil.rmtree(tmp_path / "runs")
    assert "got settings_hash " in run(write(epochs=5))[2]


def test_changed_model_file(
    host_class: type[Any], write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    """A model YAML is part of the settings by what it says; the host is not told its hash."""
    from ultralytics.utils import ROOT

    own = Path(shutil.copy(next(ROOT.glob("cfg/models/v8/yolov8.yaml")), tmp_path / "mine.yaml"))
    host = host_class()
    assert run(write(models=[str(own)]), host)[0] == 0
    assert f"model={tmp_path / 'runs' / 'tiny' / 'boards-mine-0' / 'mine.yaml'}" in host.commands[0]  # its own copy
    assert not any("hash" in word for word in host.commands[0])
    own.write_text(own.read_text() + "# no other net\n")
    assert run(write(models=[str(own)]))[0] == 0
    own.write_text(own.read_text().replace("nc: 80", "nc: 81"))
    assert "got model_hash " in run(write(models=[str(own)]))[2]


@pytest.mark.slow
def test_real_processes(write: Callable[..., Path], tmp_path: Path) -> None:
    """Trainings through the host's own command, a look at what they left, and nothing to do the second time."""
    edit = {"name": "edit", "model": "dsmoe-n", "rows": {"14 CBAM": [-1, 1, "nn.Identity", []]}, "text": "shuffled"}
    models = ["yolov8n", {"name": "zero", "model": "dsmoe-n", "text": "zero"}, edit]
    file = write(seeds=[0], epochs=1, overrides={"device": "cpu", "workers": 0}, models=models, knockouts=True)
    places = ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    command = [*DSMOE_YOLO, "study", str(file), *places]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr
    rows = (tmp_path / "out" / "tiny.csv").read_text().splitlines()
    assert [r.split(",")[1] for r in rows[1:]] == ["boards-yolov8n-0", "boards-zero-0", "boards-edit-0"]
    weights = tmp_path / "runs" / "tiny" / "boards-edit-0" / "train" / "weights" / "best.pt"
    net = torch.load(weights, weights_only=False)["model"]
    assert type(net.model[14]).__name__ == "Identity"
    assert net.text_info["prompts"][0] != net.text_info["prompts"][1]
    assert "| hub-constant | " in (tmp_path / "out" / "tiny.md").read_text()
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.stdout.startswith("3 of 3 cells are finished already\n")


def frozen_in_the_middle(process: psutil.Process, train: Path) -> list[psutil.Process]:
    """Wait for a checkpoint of an unfinished training and return all processes of the study, stopped where they are.

    Looks while they stand still: while it is written, the checkpoint is no start, or an epoch behind the table.
    """
    last, table = train / "weights" / "last.pt", train / "results.csv"
    for _ in range(6000):
        assert process.status() != psutil.STATUS_ZOMBIE, "the study ended before it could be killed"
        if last.is_file():
            everyone = [process, *process.children(recursive=True)]
            for each in everyone:
                each.suspend()
            epoch = runner.last_epoch(last)
            if epoch not in (None, FINISHED) and len(table.read_text().splitlines()) == epoch + 2:
                return everyone
            for each in everyone:
                each.resume()
        time.sleep(0.1)
    raise AssertionError(f"no checkpoint of an unfinished training in {last}")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="has no SIGKILL")
def test_killed_in_the_middle(write: Callable[..., Path], tmp_path: Path) -> None:
    """Nobody can clean up after SIGKILL: finished cells stay, the begun one goes on, no epoch is trained twice."""
    epochs, cells = 5, ["boards-yolov8n-0", "boards-k2-0"]
    file = write(seeds=[0], epochs=epochs, overrides={"device": "cpu", "workers": 0})
    places = ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    command = [*DSMOE_YOLO, "study", str(file), *places]
    table, begun = tmp_path / "out" / "tiny.csv", tmp_path / "runs" / "tiny" / cells[1] / "train"
    with (tmp_path / "log.txt").open("w") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    everyone = frozen_in_the_middle(psutil.Process(child.pid), begun)
    assert len(everyone) >= 2
    for each in everyone:
        each.kill()
    assert child.wait() == -signal.SIGKILL
    psutil.wait_procs(everyone[1:], timeout=PATIENCE)
    first = table.read_text()
    assert [r["cell"] for r in read_rows(table)] == cells[:1]
    trained = (begun / "results.csv").read_text()
    # The same command again.
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0, second.stdout + second.stderr
    starts = [line for line in second.stdout.splitlines() if line.startswith("cell ")]
    assert second.stdout.startswith("1 of 2 cells are finished already\n")
    assert starts == [f"cell 2 of 2: {cells[1]} (going on from its last checkpoint)"]
    assert [r["cell"] for r in read_rows(table)] == cells
    assert table.read_text().startswith(first)
    now = (begun / "results.csv").read_text()
    assert now.startswith(trained)
    assert [int(line.split(",")[0]) for line in now.splitlines()[1:]] == list(range(1, epochs + 1))


def test_two_at_once(write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        code, _, err = run(write())
    assert code == 1
    assert err == f"error: {folder}: expected no other study at work there, got one, or a training that it left\n"


def test_results_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the checkout its docs; elsewhere beside the trainings, not a new ``docs`` in some folder of the user's."""
    monkeypatch.chdir(CHECKOUT)
    assert results() == "docs/results"
    monkeypatch.chdir(tmp_path)
    assert results() == "runs/studies"
