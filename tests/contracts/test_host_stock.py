"""With the plugin in it, the host does to stock models exactly what it does without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import hashlib, json, shutil, sys
from pathlib import Path
import torch
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.utils import IterableSimpleNamespace

torch.set_num_threads(1)
def digest(tensors):
    return hashlib.sha256(b"".join(t.float().contiguous().numpy().tobytes() for t in tensors)).hexdigest()

torch.manual_seed(7)
model = YOLO("yolo11n.yaml")
out = {"plugin": hasattr(IterableSimpleNamespace(), "dsmoe_topk"), "weights": digest(model.model.state_dict().values())}
image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    out["forward"] = digest([model.model.eval()(image)[0]])
out["random"] = torch.rand(1).item()
run = Path(sys.argv[2]) / "run"
model.add_callback("on_model_save", lambda trainer: shutil.copy(trainer.last, run / "resumable.pt"))
model.train(data=sys.argv[1], epochs=1, imgsz=32, batch=4, workers=0, project=sys.argv[2], name="run", device="cpu",
            plots=False, verbose=False, seed=3, optimizer="SGD")
checkpoint = torch.load(f"{sys.argv[2]}/run/weights/last.pt", map_location="cpu", weights_only=False)
net = checkpoint["ema"] or checkpoint["model"]
out["trained"], out["class"] = digest(net.state_dict().values()), f"{type(net).__module__}.{type(net).__name__}"
out["rows"] = [f"{m.type} {m.np}" for m in net.model]
out["results"] = {k: v for k, v in checkpoint["train_metrics"].items()}
def written(value):
    said = json.dumps(value, sort_keys=True, default=str)
    return said.replace(sys.argv[2], "PROJECT")
out["args.yaml"] = written((run / "args.yaml").read_text())
out["results.csv"] = [line.split(",")[:1] + line.split(",")[2:] for line in (run / "results.csv").open()]  # no time
out["files"] = sorted(str(path.relative_to(run)) for path in run.rglob("*"))
CLOCK = {"date", "git", "train_results"}
for name in ("resumable.pt", "weights/last.pt", "weights/best.pt"):
    content = torch.load(run / name, map_location="cpu", weights_only=False)
    net = content["ema"] or content["model"]
    out[name] = written([list(content), vars(net) | {"_modules": 0, "criterion": 0, "stride": net.stride.tolist()},
                         {k: v for k, v in content.items() if k not in CLOCK | {"ema", "model", "optimizer"}}])
model.save(run / "saved.pt")
out["saved.pt"] = written(list(torch.load(run / "saved.pt", weights_only=False)))
print("RESULT" + json.dumps(out))
"""
WRITTEN = ("args.yaml", "results.csv", "files", "resumable.pt", "weights/last.pt", "weights/best.pt", "saved.pt")


@pytest.fixture(scope="module")
def runs(tiny_boards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return what the same script says with the plugin and without it."""
    folder = tmp_path_factory.mktemp("stock")
    (folder / "script.py").write_text(SCRIPT)
    said = {}
    for name, switch in (("on", ""), ("off", "1")):
        env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        env["ULTRA_DSMOE_DISABLE"] = switch
        command = [sys.executable, str(folder / "script.py"), str(tiny_boards), str(folder / name)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        said[name] = json.loads(done.stdout.rsplit("RESULT", 1)[1])
    return said


def test_one_run_has_the_plugin_and_one_not(runs: dict[str, dict[str, Any]]) -> None:
    assert (runs["on"]["plugin"], runs["off"]["plugin"]) == (True, False)


@pytest.mark.parametrize("what", ["weights", "forward", "random", "trained", "class", "rows", "results", *WRITTEN])
def test_the_same_with_and_without(runs: dict[str, dict[str, Any]], what: str) -> None:
    assert runs["on"][what] == runs["off"][what]


def test_nothing_of_ours_is_in_what_a_stock_model_writes(runs: dict[str, dict[str, Any]]) -> None:
    assert "dsmoe" not in json.dumps({name: runs["on"][name] for name in WRITTEN})
