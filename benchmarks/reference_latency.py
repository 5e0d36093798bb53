"""What a reference beside the image costs: ``python -m benchmarks.reference_latency [--json FILE] [--nets ...]``.

Stock nets as they are and with the row `Reference` in each of its forms in front; YOLOv8-n also with the difference of
features. Random weights, 80 classes, fused, exported through ``YOLO.export``, batch 1, ONNX Runtime, one CPU thread,
fp32. All take turns at every size; the bars are those of the forms that a data set's references bring along.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))  # as a script and with -m alike

from interleaved import (
    TIMES,
    Bar,
    Timing,
    arguments,
    caution,
    image_size,
    interleave,
    onnx_runner,
    table,
    write_json,
)
from net_latency import inside

from ultra_dsmoe.evaluate.evaluation import quiet
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.model.reference_row import with_reference
from ultra_dsmoe.nn.reference.reference import FORMS

NETS = ("yolov8n", "yolo11n", "yolo26n", "dsmoe-n")
SIZES = (320, 640)
FEATURES = "features"  # the form that needs a file of its own
STUDIED = {("yolov8n", FEATURES): Path(__file__).parent / "studies" / "nets" / "yolov8n-ref-features.yaml"}
AIM = 1.05
REPEATS, WARM_UP = 20, 3


class Built(NamedTuple):
    """A net as an ONNX file, with its size."""

    file: Path
    channels: int
    parameters: int
    gflops: float


def forms(net: str) -> list[str]:
    """Return the forms that a net can be had in."""
    return [form for form in FORMS if form != FEATURES or (net, form) in STUDIED]


def build(net: str, form: str | None, imgsz: int, folder: Path) -> Built:
    """Build and export a net.

    Args:
        net: Name of a model YAML without its ending.
        form: Form of its reference row, None for the net as it is.
        imgsz: Side of the image in pixels.
        folder: Where the file goes.
    """
    from ultralytics import YOLO

    torch.manual_seed(0)
    with quiet(), inside(folder):
        yolo: Any = YOLO(f"{net}.yaml")
        if form is not None:
            cfg = STUDIED.get((net, form)) or with_reference(f"{net}.yaml", form)
            row = DSMoEModel(str(cfg) if isinstance(cfg, Path) else cfg, verbose=False)
            row.args, row.task = yolo.model.args, yolo.model.task
            yolo.model = row
        channels = yolo.model.yaml["channels"]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            yolo.model.eval()(torch.zeros(1, channels, imgsz, imgsz))
        exported = Path(yolo.export(format="onnx", imgsz=imgsz, device="cpu", **parity_off(net, form)))
        file = exported.resolve().rename(folder / f"{net}-{form}-{imgsz}.onnx")
    size = sum(p.numel() for p in yolo.model.parameters())
    return Built(file, channels, size, counter.get_total_flops() / 1e9)


def parity_off(net: str, form: str | None) -> dict[str, bool]:
    """Return the key that leaves out the check of an export, for nets that know it."""
    return {} if form is None and net.startswith("yolo") else {"dsmoe_parity": False}


def run(built: Built, imgsz: int) -> Any:
    """Return a function that runs a file on one thread."""
    image = np.random.default_rng(0).random((1, built.channels, imgsz, imgsz), dtype=np.float32)
    return onnx_runner(str(built.file), {"images": image})


def measure(net: str, imgsz: int, repeats: int, folder: Path) -> tuple[dict[str, Built], dict[str, Timing]]:
    """Return a net as it is and in all forms, and their times, by what the table calls them."""
    nets = {name(net, form): build(net, form, imgsz, folder) for form in (None, *forms(net))}
    return nets, interleave({key: run(built, imgsz) for key, built in nets.items()}, repeats, WARM_UP)


def name(net: str, form: str | None) -> str:
    """Return what the table calls a net."""
    return net if form is None else f"{net} {form}"


def ratios(times: dict[str, Timing]) -> dict[str, Timing]:
    """Return the ratio of each form to the net as it is."""
    return {key: t.over(times[key.partition(" ")[0]]) for key, t in times.items() if " " in key}


def bars(over: dict[str, Timing], imgsz: int) -> list[Bar]:
    """Return the bars of one size; the form of features has none, as no data set brings it along."""
    return [Bar.of(f"{key}, {imgsz} px", t, AIM) for key, t in over.items() if not key.endswith(FEATURES)]


def report(nets: dict[str, Built], times: dict[str, Timing]) -> list[str]:
    """Return the lines to print for one net and size."""
    over, plain = ratios(times), next(iter(nets.values()))
    header = ["", "parameters", "GFLOPs", *TIMES, *(f"{field} / without" for field in Timing._fields)]
    rows = []
    for key, b in nets.items():
        size = [f"{b.parameters:,}", f"{b.gflops:.3f}"]
        if b is not plain:  # what the row adds
            size = [f"{b.parameters - plain.parameters:+,}", f"{b.gflops - plain.gflops:+.3f}"]
        rows.append([key, *size, *(f"{ms:.1f}" for ms in times[key]), *(f"{r:.3f}" for r in over.get(key, ()))])
    return table(header, [row + [""] * (len(header) - len(row)) for row in rows])


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments."""
    parser = arguments("What a reference beside the image costs, batch 1, fp32, one thread.", REPEATS)
    parser.add_argument("--imgsz", nargs="+", type=image_size, default=SIZES, metavar="PX", help="(%(default)s)")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=NETS[:1], metavar="NET", help="(%(default)s)")
    return parser.parse_args(argv)


def main() -> None:
    """Print a table per net and size, and the bars."""
    args = parsed()
    torch.set_num_threads(1)
    print(f"batch 1, 80 classes, random weights, fp32, ONNX Runtime, one thread, {args.repeats} rounds", flush=True)
    found: list[Bar] = []
    results: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        for net in dict.fromkeys(args.nets):
            for imgsz in dict.fromkeys(args.imgsz):
                nets, times = measure(net, imgsz, args.repeats, Path(folder).resolve())
                over = ratios(times)
                found += bars(over, imgsz)
                print("\n".join(["", f"{imgsz} px:", *report(nets, times), *caution(times)]), flush=True)
                results += [
                    {"net": key, "imgsz": imgsz, "parameters": b.parameters, "gflops": b.gflops,
                     "ms": times[key]._asdict(), **({"over": over[key]._asdict()} if key in over else {})}
                    for key, b in nets.items()
                ]  # fmt: skip
    print("\n".join(["", *map(str, found)]))
    content = {"results": results, "bars": [bar.as_dict() for bar in found]}
    write_json(args.json, {**content, "repeats": args.repeats, "threads": 1})


if __name__ == "__main__":
    main()
