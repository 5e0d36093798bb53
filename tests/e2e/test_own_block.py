"""A block of a user's own, in a module beside a plain script: option, loss terms, gains, setting, fold, knock-outs."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_block"
SCRIPT = """
import json, sys
import torch
import spotlight
from ultralytics import YOLO
from ultra_dsmoe.explain.catalogue import applicable
from ultra_dsmoe.explain.record import recording
from ultra_dsmoe.nn import Record
from ultra_dsmoe.plugin.verbs import predictor_net

data, project = sys.argv[1:]
model = YOLO("own-block.yaml")
model.train(data=data, project=project, name="own", epochs=1, imgsz=64, batch=4, workers=0, plots=False, device="cpu")
run = model.trainer.save_dir
model = YOLO(run / "weights" / "last.pt")
net = model.model
(block,) = net.blocks(spotlight.Spotlight)
image = torch.rand(2, 3, 64, 64)
entries, record = applicable(net)[0], Record()
changed = {}
with torch.no_grad():
    with recording(net, record):
        before = net(image)[0]
    for entry in entries:
        with entry.switch(net, record, 0):
            changed[entry.name] = not torch.equal(net(image)[0], before)
    restored = torch.equal(net(image)[0], before)

picture = (image[0].permute(1, 2, 0) * 255).byte().numpy()
floors = []
for floor in (0.25, 0.75):
    model.model.model[4].floor = floor
    model.predict(picture, imgsz=64, device="cpu", verbose=False)
    (seen,) = predictor_net(model).blocks(spotlight.Spotlight)
    floors.append(seen.floor)

file = YOLO(run / "weights" / "last.pt").export(format="onnx", imgsz=64)
print(json.dumps({
    "run": str(run), "file": file, "gains": net.options["gains"], "changed": changed,
    "floor": YOLO("own-block.yaml").model.model[4].floor,
    "restored": restored, "floors": floors, "folded": type(seen.norm).__name__,
}))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, tiny_boards: Path) -> dict[str, Any]:
    """Return what the script printed last."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", str(tiny_boards), str(folder / "runs")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return {**json.loads(done.stdout.splitlines()[-1]), "output": done.stdout + done.stderr}


def test_its_loss_terms_are_in_results_csv(told: dict[str, Any]) -> None:
    with (Path(told["run"]) / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    row = {name.strip(): float(value) for name, value in row.items()}
    columns = [name for name in row if name.startswith("train/")]
    assert columns[-2:] == ["train/spot_loss", "train/aux_loss"]
    assert 0.02 < row["train/spot_loss"] < 0.2, "the cross-entropy of two classes times the gain that the YAML gives"
    assert 0.0025 < row["train/aux_loss"] < 0.01, "a mean weight from 0.25 to 1, times the gain of the class"


def test_its_option_and_gain_come_from_the_model_yaml(told: dict[str, Any]) -> None:
    assert (told["floor"], told["gains"]) == (0.25, {"spot": 0.2})


def test_what_can_be_switched_off_is_found_works_and_comes_back(told: dict[str, Any]) -> None:
    assert told["changed"] == {"spotlight-off": True, "spotlight-constant": True, "control": False}
    assert told["restored"]


def test_its_setting_reaches_the_predictors_copy_and_its_fold_is_used(told: dict[str, Any]) -> None:
    assert told["floors"] == [0.25, 0.75]
    assert told["folded"] == "Identity"


def test_it_is_exported_with_parity(told: dict[str, Any]) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(told["file"]).graph
    assert Path(told["file"]).suffix == ".onnx"
    assert sum(node.op_type == "BatchNormalization" for node in graph.node) == 0, "the fold was in force"
    assert "parity: " in told["output"]
