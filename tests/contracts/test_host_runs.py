"""Every verb on our smallest model, on whichever host is installed: trained once, then used in fresh processes."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from ultralytics import YOLO

from ultra_dsmoe.model.detector import DSMoEModel

Run = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("imgsz=64", "workers=0", "device=cpu")

INTERRUPTED = """
import sys
from ultralytics import YOLO

class Stop(Exception):
    pass

def stop(trainer):
    if trainer.epoch == 0:
        raise Stop

model = YOLO("dsmoe-n.yaml")
model.add_callback("on_model_save", stop)
try:
    model.train(data=sys.argv[1], epochs=2, imgsz=64, batch=4, workers=0, project=sys.argv[2], name="run", device="cpu",
                plots=False, dsmoe_topk=3, dsmoe_text="hash")
except Stop:
    print("stopped")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def interrupted(folder: Path, tiny_boards: Path) -> Path:
    """Return the run folder of a training that was stopped after its first of two epochs."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    command = [sys.executable, "-c", INTERRUPTED, str(tiny_boards), str(folder)]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    assert done.stdout.strip().endswith("stopped"), (done.stdout + done.stderr)[-3000:]
    return folder / "run"


@pytest.fixture(scope="module")
def trained(interrupted: Path) -> Path:
    """Return the checkpoint of that training, resumed in a fresh process to its end."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    code = "import sys; from ultralytics import YOLO; YOLO(sys.argv[1]).train(resume=True, device='cpu')"
    command = [sys.executable, "-c", code, str(interrupted / "weights" / "last.pt")]
    done = subprocess.run(
        command, env=env, cwd=interrupted.parent, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return interrupted / "weights" / "best.pt"


@pytest.fixture(scope="module")
def exported(trained: Path, run_module: Run) -> Path:
    run_module("export", f"model={trained}", "format=onnx", "imgsz=64", "device=cpu", "dsmoe_topk=2")
    return trained.with_suffix(".onnx")


@pytest.fixture(scope="module")
def run_module(folder: Path) -> Run:
    """Run the command line as the launcher of several trainings does, which no console script reaches."""

    def run(*arguments: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        code = "import sys; sys.argv[0] = 'yolo'; from ultralytics.cfg import entrypoint; entrypoint()"
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(
            command, env={**clean, **env}, cwd=folder, capture_output=True, text=True, check=False, timeout=600
        )
        if check:
            assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done

    return run


def test_resumed_training_goes_on_as_ours(trained: Path, interrupted: Path) -> None:
    rows = list(csv.DictReader((interrupted / "results.csv").read_text().replace(" ", "").splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert any(name.startswith("router/") for name in rows[0])
    args = yaml.safe_load((interrupted / "args.yaml").read_text())
    given = {key: value for key, value in args.items() if key.startswith("dsmoe_")}
    assert given == {"dsmoe_topk": 3, "dsmoe_text": "hash"}
    net = YOLO(trained).model
    assert type(net) is DSMoEModel
    assert net.options["topk"] == 3
    assert net.text_info["encoder"] == "hash"


def test_the_command_line_takes_the_words_of_our_keys(run_module: Run, tiny_boards: Path, folder: Path) -> None:
    """Hosts before 8.4.60 evaluate the values: ``hash`` is a function of Python's."""
    run_module(
        "train", "model=dsmoe-n.yaml", f"data={tiny_boards}", "epochs=1", "batch=4", *SMALL, "plots=False", "val=False",
        f"project={folder}", "name=words", "dsmoe_text=hash", "dsmoe_moe=dense",
    )  # fmt: skip
    args = yaml.safe_load((folder / "words" / "args.yaml").read_text())
    assert (args["dsmoe_text"], args["dsmoe_moe"]) == ("hash", "dense")
    assert YOLO(folder / "words" / "weights" / "last.pt").model.text_info["encoder"] == "hash"


def test_validation_takes_the_keys(trained: Path, tiny_boards: Path, tmp_path: Path) -> None:
    model = YOLO(trained)
    call = {"data": str(tiny_boards), "imgsz": 64, "workers": 0, "device": "cpu", "project": str(tmp_path)}
    for given in ({}, {"dsmoe_topk": 1, "dsmoe_moe": "dense"}):
        assert model.val(**call, **given, plots=False).box.map50 >= 0
    assert model.model.options["topk"] == 3


def test_prediction_and_tracking(trained: Path, tiny_boards: Path, tmp_path: Path) -> None:
    pytest.importorskip("lap", reason="the host's trackers need lap")
    source = tiny_boards.parent / "images" / "val"
    model = YOLO(trained)
    call = {"imgsz": 64, "device": "cpu", "project": str(tmp_path), "verbose": False, "conf": 0.001, "dsmoe_topk": 2}
    assert len(model.predict(source, **call)) == 4
    assert len(list(model.track(source, **call, stream=True))) == 4


def test_the_script_saves_pictures(run_yolo: Run, trained: Path, tiny_boards: Path, tmp_path: Path) -> None:
    source = tiny_boards.parent / "images" / "val"
    run_yolo(
        "predict", f"model={trained}", f"source={source}", f"project={tmp_path}", "name=p", *SMALL, script="dsmoe-yolo"
    )
    assert len(list((tmp_path / "p").iterdir())) == 4


def test_export_agrees_and_refuses_keys(exported: Path, trained: Path, run_module: Run) -> None:
    import onnx

    opsets = {o.domain: o.version for o in onnx.load(exported).opset_import}
    assert opsets[""] == 17
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    got = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
    net = YOLO(trained).model.float().eval()
    net.set_topk(2)
    with torch.no_grad():
        assert torch.allclose(net(image)[0], got, atol=0.01)
        net.set_topk(3)
        assert not torch.equal(net(image)[0], got)
    done = run_module("val", f"model={exported}", "dsmoe_topk=3", check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: dsmoe_topk: expected a DS-MoE model as a .pt file")


def test_restricted_loading(trained: Path, tiny_boards: Path, run_module: Run, folder: Path) -> None:
    done = run_module(
        "val", f"model={trained}", f"data={tiny_boards}", f"project={folder}", "name=safe", *SMALL,
        ULTRALYTICS_SAFE_LOAD="1",
    )  # fmt: skip
    assert "all" in done.stdout + done.stderr


def test_damaged_text_vectors_are_refused_on_loading(trained: Path, run_module: Run, tmp_path: Path) -> None:
    ckpt = torch.load(trained, weights_only=False)
    row = next(m for m in ckpt["model"].model if type(m).__name__ == "TextSemantics")
    row.bank[0, 0] = torch.nan
    torch.save(ckpt, tmp_path / "damaged.pt")
    done = run_module("val", f"model={tmp_path / 'damaged.pt'}", f"project={tmp_path / 'runs'}", check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        f"error: text vectors of {tmp_path / 'damaged.pt'}: expected finite numbers, got NaN or infinity"
    )
    assert not (tmp_path / "runs").exists()


def test_loading_without_the_hook(trained: Path) -> None:
    """Unpickling imports the package, which puts itself into the host."""
    code = (
        "import sys; from ultralytics import YOLO; m = YOLO(sys.argv[1]);"
        " print(type(m.model).__name__, m.task_map['detect']['trainer'].__name__)"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    env["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    done = subprocess.run(
        [sys.executable, "-c", code, str(trained)], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "DSMoEModel DSMoETrainer"


def test_worker_script_of_a_distributed_run(tiny_boards: Path, tmp_path: Path) -> None:
    """The script that the host writes for each process of a distributed run, run as one process."""
    from ultralytics.utils.dist import generate_ddp_file

    from ultra_dsmoe.train.trainer import DSMoETrainer

    overrides = {
        "model": "dsmoe-n.yaml", "data": str(tiny_boards), "epochs": 1, "imgsz": 64, "batch": 4, "workers": 0,
        "project": str(tmp_path), "name": "ddp", "device": "cpu", "plots": False, "dsmoe_topk": 2, "val": False,
    }  # fmt: skip
    trainer = DSMoETrainer(overrides=overrides)
    script = Path(generate_ddp_file(trainer))
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    try:
        done = subprocess.run(
            [sys.executable, str(script)],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
    finally:
        script.unlink(missing_ok=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (last,) = tmp_path.glob("ddp*/weights/last.pt")
    net = YOLO(last).model
    assert type(net) is DSMoEModel
    assert net.options["topk"] == 2
