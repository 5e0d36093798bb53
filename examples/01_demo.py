"""From nothing to a tested ONNX file: generated boards, training, export, parity, eight predictions, routing map.

Run with `make demo`, or `python examples/01_demo.py` in an environment that has the package. Everything it writes is
under `runs/demo` of the working folder; the boards are under the host's data set folder.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ultralytics import YOLO
from ultralytics.data.utils import check_det_dataset

from ultra_dsmoe.commands.routing import COMMAND as ROUTING
from ultra_dsmoe.export.parity import compare, load_images

TARGET_MAP50 = 0.60
BOARDS = 8
DATA = "pcb-demo.yaml"

# Sized for eight minutes on two cores. A training this short needs every step it can get: small batches, one optimizer
# step for each (nbs = batch), and boards at the size they are validated at - no mosaic and no zoom, which would shrink
# the defects. Boards have no upright side and the same light everywhere: flips both ways, little change of colour.
RECIPE = {
    "epochs": 12,
    "imgsz": 256,
    "batch": 4,
    "nbs": 4,
    "optimizer": "AdamW",
    "lr0": 0.001,
    "warmup_epochs": 1,
    "mosaic": 0.0,
    "scale": 0.0,
    "translate": 0.05,
    "flipud": 0.5,
    "hsv_h": 0.01,
    "hsv_s": 0.3,
    "hsv_v": 0.2,
    "cache": "ram",
    "workers": 1,
    "seed": 0,
    "device": "cpu",
}


def train(out: Path) -> tuple[YOLO, Path, float]:
    """Train dsmoe-n; return the best net, its run folder and its mAP50 on the validation half."""
    model = YOLO("dsmoe-n.yaml")
    results = model.train(data=DATA, project=str(out), name="train", exist_ok=True, **RECIPE)
    assert model.trainer is not None
    run = Path(model.trainer.save_dir)
    return YOLO(run / "weights" / "best.pt"), run, float(results.box.map50)


def main() -> int:
    """Run the demo; 1 where the net misses its target or the ONNX file does not agree with it."""
    out, start = Path("runs/demo").resolve(), time.perf_counter()
    imgsz = RECIPE["imgsz"]

    print("1/5 training dsmoe-n on generated boards", flush=True)
    model, run, map50 = train(out)

    print("2/5 exporting ONNX", flush=True)
    onnx = model.export(format="onnx", imgsz=imgsz)

    print("3/5 comparing the ONNX file with the net", flush=True)
    boards = sorted(Path(check_det_dataset(DATA)["val"]).glob("*.jpg"))[:BOARDS]
    report = compare(YOLO(run / "weights" / "best.pt").model, onnx, load_images(boards, imgsz))
    print(f"    {report}")

    print("4/5 predicting eight boards with the ONNX file", flush=True)
    shown = YOLO(onnx, task="detect").predict(
        boards, imgsz=imgsz, save=True, project=str(out), name="predict", exist_ok=True, verbose=False
    )
    written = [file for file in Path(shown[0].save_dir).glob("*.jpg") if file.stat().st_size]
    if len(written) < len(boards):  # the host's writer says nothing of a full disk
        got = f"{len(written)} with anything in them"
        raise SystemExit(f"error: predict: expected {len(boards)} pictures in {shown[0].save_dir}, got {got}")

    print("5/5 drawing which experts each defect class calls", flush=True)
    routing = out / "routing"
    ROUTING.main([str(run / "weights" / "best.pt"), f"data={DATA}", f"imgsz={imgsz}", f"out={routing}", "device=cpu"])

    print(f"\nmAP50 on the validation half: {map50:.3f} (target {TARGET_MAP50:.2f})")
    print(f"ONNX agrees with the net:     {report.agrees()}")
    print(f"eight boards:                 {shown[0].save_dir}")
    print(f"training curves:              {run / 'results.png'}")
    print(f"routing map:                  {routing / 'routing_map.png'}")
    print(f"time:                         {time.perf_counter() - start:.0f} s")
    return 0 if report.agrees() and map50 >= TARGET_MAP50 else 1


if __name__ == "__main__":
    sys.exit(main())
