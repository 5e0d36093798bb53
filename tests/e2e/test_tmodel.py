"""T- and S-model through the host: training, S from T, sizes, files that agree with the net, fresh processes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.utils import LOGGER

from ultra_dsmoe.edge.lint import lint
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn import ResidualFusion

SIZE = 128
SCRIPT = """
import sys, torch
from ultralytics import YOLO
torch.set_num_threads(1)
torch.manual_seed(0)
net = YOLO(sys.argv[1]).model
print(type(net.model[-1]).__module__, float(net.eval()(torch.rand(1, 3, 128, 128))[0].sum()))
"""


@pytest.fixture(scope="module")
def arguments(quick: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return {**quick, "imgsz": SIZE, "epochs": 1, "project": str(tmp_path_factory.mktemp("runs"))}


@pytest.fixture(scope="module")
def student(arguments: dict[str, object], tiny_boards: Path) -> Path:
    """Return the run folder of one epoch of smodel-n."""
    YOLO("smodel-n.yaml").train(data=tiny_boards, name="student", **arguments)
    return Path(str(arguments["project"])) / "student"


@pytest.fixture(scope="module")
def teacher(arguments: dict[str, object], tiny_boards: Path) -> Path:
    """Return the run folder of one epoch of tmodel-n, begun with an image size that does not suit it."""
    YOLO("tmodel-n.yaml").train(data=tiny_boards, name="teacher", **{**arguments, "imgsz": 96})
    return Path(str(arguments["project"])) / "teacher"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the lines that the host's logger gets."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    monkeypatch.setattr(LOGGER, "handlers", [*LOGGER.handlers, handler])
    return lines


def awake(name: str, path: Path, size: int) -> Path:
    """Save a net that tells images apart: the statistics of a fresh one fade them out, its scores are all but zero."""
    torch.manual_seed(1)
    net = YOLO(f"{name}.yaml").model
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    paces = [m.momentum for m in norms]
    with torch.no_grad():
        for m in norms:
            m.weight.uniform_(0.5, 1.5)
            m.momentum = 0.5
        for row in net.blocks(ResidualFusion):
            row.logits.normal_()
        for branch in net.model[-1].cv3:
            branch[-1].bias.zero_()
            branch[-1].weight.mul_(5)
        for _ in range(6):
            net.train()(torch.rand(2, 3, size, size))
    for m, pace in zip(norms, paces, strict=True):
        m.momentum = pace
    torch.save({"model": net.eval(), "train_args": {"task": "detect", "imgsz": size}}, path)
    return path


def test_the_student_trains_and_is_measured(student: Path, tiny_boards: Path, tmp_path: Path) -> None:
    best = YOLO(student / "weights" / "best.pt")
    assert type(best.model) is DSMoEModel
    assert best.model.stride.tolist() == [4.0, 8.0, 16.0, 32.0]
    metrics = best.val(
        data=tiny_boards, imgsz=SIZE, batch=2, workers=0, plots=False, project=str(tmp_path), verbose=False
    )
    assert 0 <= metrics.box.map50 <= 1


def test_the_student_starts_from_the_teacher(
    teacher: Path, arguments: dict[str, object], tiny_boards: Path, said: list[str]
) -> None:
    weights = teacher / "weights" / "best.pt"
    yolo = YOLO("smodel-n.yaml")
    start: dict[str, torch.Tensor] = {}
    yolo.add_callback("on_pretrain_routine_end", lambda t: start.update(deepcopy(t.model.state_dict())))
    yolo.train(data=tiny_boards, pretrained=str(weights), name="from-teacher", **arguments)
    (line,) = [line for line in said if line.endswith("tensors from best.pt")]
    fit, _, total, *_ = line.split()
    assert fit == total
    source = YOLO(weights).model.float().state_dict()
    assert torch.equal(start["model.9.cv1.conv.weight"].cpu(), source["model.13.cv1.conv.weight"])


@pytest.mark.parametrize("verb", ["val", "predict", "export"])
def test_a_size_that_does_not_suit_the_teacher_is_rounded_up_in_one_line(
    verb: str, teacher: Path, tiny_boards: Path, tmp_path: Path, said: list[str]
) -> None:
    """The host's own way with any net; a direct forward refuses (tests/nn/test_tmodel.py)."""
    yolo = YOLO(teacher / "weights" / "last.pt")
    if verb == "val":
        yolo.val(data=tiny_boards, imgsz=96, batch=2, workers=0, plots=False, project=str(tmp_path), verbose=False)
    elif verb == "predict":
        yolo.predict(np.zeros((96, 96, 3), np.uint8), imgsz=96, verbose=False)
    else:
        yolo.export(format="torchscript", imgsz=96, dsmoe_parity=False)
    (line,) = {line for line in said if "imgsz=[96" in line}
    assert "must be multiple of max stride 128" in line
    assert "\n" not in line


def test_a_training_rounds_the_size_up_too(teacher: Path) -> None:
    assert YOLO(teacher / "weights" / "best.pt").ckpt["train_args"]["imgsz"] == SIZE


@pytest.mark.parametrize(("name", "sizes"), [("smodel-n", (128, 160, 352)), ("tmodel-n", (384,))])
def test_onnx_files_agree_with_the_net_and_suit_tensorrt(name: str, sizes: tuple[int, ...], tmp_path: Path) -> None:
    """Sizes whose maps are one window, several, and no multiple of one."""
    path = awake(name, tmp_path / f"{name}.pt", sizes[-1])
    for size in sizes:
        file = YOLO(path).export(format="onnx", imgsz=size)
        assert not [str(f) for f in lint(file)]
        net = YOLO(path).model.eval()
        images, others = torch.rand(2, 1, 3, size, size)
        with torch.no_grad():
            wanted, other = net(images)[0].numpy(), net(others)[0].numpy()
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        (got,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(got[:, 4:], wanted[:, 4:], atol=1e-4, rtol=0)
        np.testing.assert_allclose(got[:, :4] / size, wanted[:, :4] / size, atol=1e-4, rtol=0)
        assert np.abs(wanted - other)[:, 4:].max() > 0.1, "a net that does not look agrees with anything"


@pytest.mark.parametrize("safe", ["", "1"])
def test_a_fresh_process_reads_the_checkpoint(safe: str, student: Path, tmp_path: Path) -> None:
    weights = student / "weights" / "best.pt"
    torch.manual_seed(0)
    expected = float(YOLO(weights).model.eval()(torch.rand(1, 3, SIZE, SIZE))[0].sum())
    env = {**os.environ, "OMP_NUM_THREADS": "1", **({"ULTRALYTICS_SAFE_LOAD": safe} if safe else {})}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(weights)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    module, total = done.stdout.split()[-2:]
    assert module == "ultra_dsmoe.nn.head.decoupled_detect"
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_the_recipe_on_the_command_line(
    run_yolo: Callable[..., subprocess.CompletedProcess[str]], tiny_boards: Path, tmp_path: Path
) -> None:
    small = ("model=smodel-n.yaml", f"imgsz={SIZE}", "epochs=1", "batch=4", "workers=0", "device=cpu", "plots=False")
    done = run_yolo("train", "cfg=train/tmodel.yaml", f"data={tiny_boards}", *small, f"project={tmp_path}", "name=run")
    assert "Adam" in done.stdout + done.stderr
    settings = (tmp_path / "run" / "args.yaml").read_text()
    assert "cos_lr: true" in settings
    assert "weight_decay: 0.0001" in settings
    assert (tmp_path / "run" / "weights" / "best.pt").is_file()
