"""Checkpoints of earlier versions load: their classes are found under the names that the files hold.

The fixtures were written by 0.1.0 before its folders were rearranged. Their weights are patterns that compress well.
"""

from __future__ import annotations

import gzip
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ultralytics import YOLO

from ultra_dsmoe.aliases import MOVED
from ultra_dsmoe.nn import ExpertGate, SparseMoE

FIXTURES = Path(__file__).parent / "fixtures"
DETECTORS = ("dsmoe-n", "smodel-n", "yolov8n-dsmoe")


def unpacked(name: str, folder: Path) -> Path:
    path = folder / f"{name}.pt"
    path.write_bytes(gzip.decompress((FIXTURES / f"0.1.0-{name}.pt.gz").read_bytes()))
    return path


@pytest.mark.parametrize("name", DETECTORS)
def test_old_checkpoint_predicts_as_a_net_built_today(name: str, tmp_path: Path) -> None:
    old = YOLO(unpacked(name, tmp_path)).model.float().eval()
    new = type(old)(f"{name}.yaml", nc=80, verbose=False).eval()
    assert type(old).__module__ == "ultra_dsmoe.model.detector"
    assert new.load_state_dict(old.state_dict(), strict=True)
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = old(image)[0], new(image)[0]
    assert torch.isfinite(found).all()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["dsmoe-n", "yolov8n-dsmoe"])
def test_the_mixture_of_an_old_checkpoint_takes_k_from_its_gate(name: str, tmp_path: Path) -> None:
    net = YOLO(unpacked(name, tmp_path)).model
    (gate,), (moe,) = net.blocks(ExpertGate), net.blocks(SparseMoE)
    assert moe.router is gate
    net.set_topk(2)
    assert (gate.k, moe.k) == (2, 2)
    assert "k" not in vars(moe)


def test_interrupted_distillation_is_read(tmp_path: Path) -> None:
    from ultra_dsmoe.train.distill_wrapper import FeatureDistillation

    wrapper = torch.load(unpacked("smodel-n-distilled-last", tmp_path), weights_only=False)["model"]
    assert type(wrapper) is FeatureDistillation
    assert wrapper.teacher_model is None
    assert type(wrapper.student_model).__module__ == "ultra_dsmoe.model.detector"


@pytest.mark.parametrize("off", ["0", "1"])
@pytest.mark.parametrize("safe", ["0", "1"])
def test_fresh_process(off: str, safe: str, tmp_path: Path) -> None:
    """Also with the plugin off, where plain unpickling serves, and under restricted loading, which needs the plugin."""
    if off == safe == "1":
        pytest.skip("restricted loading of foreign classes needs the plugin")
    path = unpacked("dsmoe-n", tmp_path)
    code = (
        "import os, sys, torch\n"
        f"os.environ.update(ULTRA_DSMOE_DISABLE={off!r}, ULTRALYTICS_SAFE_LOAD={safe!r})\n"
        "from ultralytics.nn.tasks import torch_safe_load\n"
        f"print(type(torch_safe_load({str(path)!r})[0]['model']).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split()[-1:] == ["DSMoEModel"], done.stdout + done.stderr


@pytest.mark.parametrize(("former", "today"), MOVED.items())
def test_former_name_is_the_same_module(former: str, today: str) -> None:
    module = importlib.import_module(today)
    spec = module.__spec__
    assert importlib.import_module(former) is module
    assert module.__spec__ is spec
    assert module.__name__ == today


def test_no_former_name_is_in_use_again() -> None:
    package = Path(importlib.import_module("ultra_dsmoe").__path__[0]).parent
    for former, today in MOVED.items():
        assert not (package / f"{former.replace('.', '/')}.py").exists()
        assert (package / f"{today.replace('.', '/')}.py").is_file()
