"""One briefly trained net and its exports, shared by the end-to-end tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics.cfg
import yaml
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

from ultra_dsmoe import cli
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.base import AuxLossMixin
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate

sys.path.insert(0, str(Path(__file__).parent))  # whichever import mode pytest uses

SIZE = 64
QUICK = {"imgsz": SIZE, "batch": 4, "workers": 0, "plots": False, "device": "cpu", "exist_ok": True, "verbose": False}
HASH = {"dsmoe_text": "hash"}  # no language model has to be loaded
WORKER_SECONDS = 300
FORMATS = {"onnx": "routed.onnx", "torchscript": "routed.torchscript", "openvino": "routed_openvino_model"}


@pytest.fixture(scope="session")
def quick() -> dict[str, object]:
    """Arguments that make any training small."""
    return dict(QUICK)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_boards: Path) -> Path:
    """Return the run folder of one epoch of dsmoe-n on the tiny boards."""
    project = tmp_path_factory.mktemp("runs")
    YOLO("dsmoe-n.yaml").train(data=tiny_boards, epochs=1, project=str(project), name="trained", **QUICK, **HASH)
    return project / "trained"


@pytest.fixture(scope="session")
def boards(tiny_boards: Path) -> list[Path]:
    """Return the pictures of the tiny boards."""
    return sorted(p for p in (tiny_boards.parent / "images").rglob("*") if p.suffix in {".png", ".jpg"})


@pytest.fixture(scope="session")
def make_routed() -> Callable[..., Path]:
    """Return a function that saves a net whose hub speaks and whose gate tells images apart, as after long training.

    A net of one epoch sends all images one way, and one with a stock backbone still has its hub near zero.
    """

    def make(net: nn.Module, images: torch.Tensor, path: Path) -> Path:
        torch.manual_seed(1)
        for m in net.modules():
            if type(m).__name__ == "HubInject":
                nn.init.ones_(m.bn.weight)
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        paces = [m.momentum for m in norms]
        gates = [m for m in net.modules() if isinstance(m, ExpertGate)]
        with torch.no_grad():
            for m in norms:
                m.momentum = 0.5
            net.float().train()
            for _ in range(8):  # statistics of a fresh net fade every difference between images out
                net(images)
            for m, pace in zip(norms, paces, strict=True):
                m.momentum = pace
            net.eval()
            for gate in gates:
                seen: list[torch.Tensor] = []
                handle = gate.register_forward_pre_hook(lambda _m, x, seen=seen: seen.append(x[0]))
                net(images)
                handle.remove()
                gate.train()
                for _ in range(80):  # its momentum is small
                    gate(seen[0])
                gate.eval()
        for m in net.modules():
            if isinstance(m, AuxLossMixin):
                m.pop_aux()
        torch.save({"model": net.eval(), "train_args": {"task": "detect", "imgsz": images.shape[-1]}}, path)
        return path

    return make


@pytest.fixture(scope="session")
def routed(trained: Path, boards: list[Path], make_routed: Callable[..., Path]) -> Path:
    """Return a checkpoint whose images take different routes."""
    from ultra_dsmoe.export.parity import load_images

    net = YOLO(trained / "weights" / "last.pt").model
    return make_routed(net, load_images(boards, SIZE), trained.parent / "routed.pt")


@pytest.fixture(scope="session")
def exported(routed: Path) -> Callable[[str], Path]:
    """Return a function that exports the routed net, once per format."""

    def export(fmt: str) -> Path:
        path = routed.parent / FORMATS[fmt]
        if not path.exists():
            YOLO(routed).export(format=fmt, imgsz=SIZE)
        return path

    return export


@pytest.fixture(scope="session")
def run_ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that runs a worker script as two processes and gives what each of them saved."""

    def run(worker: Path, *words: str) -> list[dict[str, Any]]:
        folder = tmp_path_factory.mktemp(worker.stem)
        commands = [[sys.executable, str(worker), str(rank), str(folder), *words] for rank in range(2)]
        running = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c in commands]
        try:
            texts = [process.communicate(timeout=WORKER_SECONDS)[0] for process in running]
        finally:
            for process in running:
                process.kill()
        assert [p.returncode for p in running] == [0, 0], "\n".join(texts)[-3000:]
        return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]

    return run


@pytest.fixture(scope="session")
def names(tiny_boards: Path) -> dict[int, str]:
    """Return the classes of the tiny boards."""
    return dict(yaml.safe_load(tiny_boards.read_text())["names"])


@pytest.fixture(scope="session")
def save_net() -> Callable[..., Path]:
    """Return a function that writes a checkpoint as the host does."""

    def save(net: Any, names: dict[int, str], path: Path, task: str = "detect") -> Path:
        net.names, net.task = names, task
        torch.save({"model": net.half(), "train_args": {"task": task, "imgsz": SIZE}}, path)
        return path

    return save


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory, save_net: Callable[..., Path], names: dict[int, str]) -> Path:
    """Return a teacher of four levels; what it knows does not matter here."""
    torch.manual_seed(0)
    net = DetectionModel("yolov8n-p2.yaml", nc=6, verbose=False)
    return save_net(net, names, tmp_path_factory.mktemp("teacher") / "teacher.pt")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, names: dict[int, str]) -> Path:
    """Return a folder with a small net of ours: ``small.yaml`` and, untrained, ``small.pt``."""
    from refusals import SMALL

    folder = tmp_path_factory.mktemp("small")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    net = DSMoEModel(str(folder / "small.yaml"), nc=len(names), verbose=False)
    net.names = names
    torch.save({"model": net.half(), "train_args": {"task": "detect", "imgsz": SIZE}}, folder / "small.pt")
    return folder


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return an empty folder for wrong files, beside the one that commands run in."""
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command in this process, which must refuse it, and gives its line.

    The command ends with exit code 1 and one line ``error: argument: expected this, got that``, and no file or folder
    is there that was not before, but for the host's own caches of labels.
    """
    from refusals import well_formed

    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("ULTRA_DSMOE_TRACEBACK", raising=False)

    def content() -> set[Path]:
        return {path for path in tmp_path.rglob("*") if path.suffix != ".cache"}

    def run(*words: str, script: str = "yolo") -> str:
        before = content()
        monkeypatch.setattr(sys, "argv", [script, *words])
        with pytest.raises(SystemExit) as stop:
            cli.main() if script == "dsmoe-yolo" else ultralytics.cfg.entrypoint(" ".join([script, *words]))
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert stop.value.code == 1
        assert len(lines) == 1, captured.err
        assert captured.err.rstrip().endswith(lines[0])
        assert "Traceback" not in captured.err + captured.out
        assert content() == before, "something was left behind"
        line = lines[0].removeprefix("error: ")
        well_formed(line)
        return line

    return run


@pytest.fixture
def command(small: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Return a function that gives the words of a command on the small net, quick were it not to fail."""

    def words(verb: str, **arguments: object) -> list[str]:
        common: dict[str, object] = {"imgsz": SIZE, "device": "cpu", "model": small / "small.pt"}
        if verb == "train":
            common |= {"model": small / "small.yaml", "epochs": 1, "batch": 4, "workers": 0, "plots": False}
        common["project"] = tmp_path / "here" / "runs"
        return [verb, *(f"{key}={value}" for key, value in {**common, **arguments}.items())]

    return words
