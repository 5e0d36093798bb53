"""INT8 on a CPU beside FP32, trained nets: ``python -m benchmarks.int8_cpu best.pt ... --data DATA.yaml``.

Every checkpoint is exported to ONNX, quantized with ``target=openvino`` and loaded by OpenVINO through the host, both
files on the same square images (``rect=False``: an exported file has one size). Ours twice, as ``static`` and as
``gather``. All files then take turns on one thread. The bar is the loss of mAP50-95 of ours from FP32 to INT8.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))  # as a script and with -m alike

from interleaved import TIMES, Timing, arguments, caution, image_size, interleave, positive, table, write_json

from ultra_dsmoe.evaluate.evaluation import quiet
from ultra_dsmoe.export.images import split_images, spread
from ultra_dsmoe.export.openvino_folder import SUFFIX, save_openvino
from ultra_dsmoe.export.parity_verdict import map_of
from ultra_dsmoe.export.quantize import IMAGES, quantize
from ultra_dsmoe.logs import at_level
from ultra_dsmoe.model.detector import DSMoEModel

LOSS = 1.0  # points of mAP50-95 that INT8 may cost
MODES = ("static", "gather")
REPEATS = 40


class Pair(NamedTuple):
    """A net as OpenVINO folders in FP32 and in INT8, with their mAP50 and mAP50-95."""

    ours: bool
    files: tuple[Path, Path]
    scores: tuple[tuple[float, float], tuple[float, float]]

    @property
    def loss(self) -> float:
        """Points of mAP50-95 that INT8 costs."""
        (_, fp32), (_, int8) = self.scores
        return 100 * (fp32 - int8)


def pairs(checkpoint: Path, data: str, imgsz: int, images: int, folder: Path) -> dict[str, Pair]:
    """Export, quantize and evaluate a checkpoint; ours in both modes."""
    from ultralytics import YOLO

    found = {}
    ours = isinstance(YOLO(checkpoint).model, DSMoEModel)
    for mode in MODES if ours else ("",):
        name = f"{name_of(checkpoint)} {mode}".strip()
        stem = name.replace(" ", "-")
        copy = folder / f"{stem}.pt"  # the host exports beside the checkpoint
        copy.write_bytes(checkpoint.read_bytes())
        own = {"dsmoe_moe": mode, "data": data} if ours else {"opset": 17}
        with quiet():
            source = Path(YOLO(copy).export(format="onnx", imgsz=imgsz, device="cpu", **own))
        fp32 = save_openvino(source, folder / f"{stem}{SUFFIX}")
        some = spread(split_images(data), images)
        with at_level(logging.getLogger(), logging.ERROR):  # onnxruntime's advice
            int8 = quantize(source, some, folder / f"{stem}-int8{SUFFIX}", target="openvino").path
        given = {"data": data, "imgsz": imgsz, "batch": 1, "device": "cpu"}
        found[name] = Pair(ours, (fp32, int8), (map_of(fp32, given), map_of(int8, given)))
    return found


def name_of(checkpoint: Path) -> str:
    """Return the name of the run that a checkpoint ``NAME/weights/best.pt`` is from, or of the file."""
    return checkpoint.parent.parent.name if checkpoint.parent.name == "weights" else checkpoint.stem


def openvino_runner(folder: Path, image: np.ndarray) -> Callable[[], Any]:
    """Return a function that runs an OpenVINO folder on one thread."""
    import openvino

    # Without the hint, recent processors compute what is not INT8 in bfloat16.
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(next(folder.glob("*.xml"))), "CPU", config)
    return lambda: compiled([image])


def report(found: dict[str, Pair], times: dict[str, Timing]) -> list[str]:
    """Return the table: one row per net and precision."""
    header = ["", "mAP50", "mAP50-95", "loss", *TIMES, "int8 / fp32"]
    rows = []
    for name, pair in found.items():
        for i, precision in enumerate(("fp32", "int8")):
            key = f"{name} {precision}"
            ratio = times[key].over(times[f"{name} fp32"]).minimum
            extra = [f"{pair.loss:+.2f}", f"{ratio:.3f}"] if i else ["", ""]
            scores = (f"{x:.3f}" for x in pair.scores[i])
            rows.append([key, *scores, extra[0], *(f"{ms:.2f}" for ms in times[key]), extra[1]])
    return table(header, rows)


def verdicts(found: dict[str, Pair]) -> list[str]:
    """Return one line per net of ours: what INT8 costs, and whether that is within the bar."""
    return [
        f"{name}: INT8 costs {pair.loss:+.2f} points of mAP50-95, aim <= {LOSS:g}: "
        f"{'holds' if pair.loss <= LOSS else 'MISSED'}"
        for name, pair in found.items()
        if pair.ours
    ]


def beside(found: dict[str, Pair], times: dict[str, Timing]) -> list[str]:
    """Return one line per net of ours and other net: how their latencies in INT8 compare; no aim is set for it."""
    int8 = {name: times[f"{name} int8"] for name in found}
    return [
        f"{name} over {peer}, INT8: {int8[name].over(int8[peer]).minimum:.3f}"
        for name, pair in found.items()
        if pair.ours
        for peer, other in found.items()
        if not other.ours
    ]


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments."""
    parser = arguments("Accuracy and latency of trained nets in INT8 on a CPU, beside FP32.", REPEATS)
    parser.add_argument("checkpoints", nargs="+", type=checkpoint_file, metavar="best.pt", help="trained nets")
    parser.add_argument("--data", required=True, help="data YAML; its validation half calibrates and judges")
    parser.add_argument("--imgsz", type=image_size, default=640, help="side of the image (%(default)s)")
    parser.add_argument("--images", type=positive, default=IMAGES, help="for calibration (%(default)s)")
    return parser.parse_args(argv)


def checkpoint_file(value: str) -> Path:
    """Check a checkpoint."""
    if not value.endswith(".pt") or not Path(value).is_file():
        raise argparse.ArgumentTypeError(f"expected an existing .pt file, got {value}")
    return Path(value)


def main() -> None:
    """Print the table and the bars."""
    args = parsed()
    torch.set_num_threads(1)
    image = np.random.default_rng(0).random((1, 3, args.imgsz, args.imgsz), dtype=np.float32)
    with TemporaryDirectory() as place:
        found: dict[str, Pair] = {}
        for checkpoint in args.checkpoints:
            found |= pairs(checkpoint, args.data, args.imgsz, args.images, Path(place).resolve())
        runs = {
            f"{name} {precision}": openvino_runner(file, image)
            for name, pair in found.items()
            for precision, file in zip(("fp32", "int8"), pair.files, strict=True)
        }
        times = interleave(runs, args.repeats)
    print(f"batch 1, {args.imgsz} px, OpenVINO, one thread, {args.repeats} rounds; mAP on square images")
    print("\n".join([*report(found, times), *caution(times), *verdicts(found), *beside(found, times)]))
    nets = {n: {"fp32": p.scores[0], "int8": p.scores[1], "loss": p.loss} for n, p in found.items()}
    table_ms = {name: t._asdict() for name, t in times.items()}
    write_json(args.json, {"imgsz": args.imgsz, "nets": nets, "ms": table_ms})


if __name__ == "__main__":
    main()
