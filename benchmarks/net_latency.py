"""Latency of whole nets beside their peers: ``python -m benchmarks.net_latency [--json FILE] [--nets ...]``.

``dsmoe-n`` beside ``yolo11n``, ``dsmoe-s`` beside ``yolov8s``, ``dsmoe`` beside ``yolov8m``, ``yolov8n-gasnet`` beside
``yolov8n``: built from their model YAMLs with random weights and 80 classes, fused, exported through ``YOLO.export``,
batch 1. Those with experts as ``gather``, the default, and as ``static`` with the experts that images of a generated
board set are sent to. All nets take turns within
a runtime: ONNX Runtime, PyTorch and OpenVINO on one CPU thread, and PyTorch on a GPU where there is one, all in fp32.
The bars are those of ``gather`` in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
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

from ultra_dsmoe.data.boards import demo
from ultra_dsmoe.evaluate.evaluation import quiet
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE

PEERS = {  # and the bar
    "dsmoe-n": ("yolo11n", 1.2),
    "dsmoe-s": ("yolov8s", 1.0),
    "dsmoe": ("yolov8m", 0.9),
    "yolov8n-gasnet": ("yolov8n", 1.1),
}
MODES = ("gather", "static")
RUNTIMES = ("onnxruntime", "torch", "openvino", "cuda")
ROUTED = 16  # boards whose routing says what static keeps (our choice)
REPEATS, WARM_UP = 8, 2

Run = Callable[[], Any]


class Built(NamedTuple):
    """A net ready for every runtime: fused for PyTorch, and as an ONNX file."""

    net: torch.nn.Module
    file: Path
    gflops: float
    kept: int | None = None  # experts in a static file


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder: the host exports a net without a checkpoint to the current one."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def build(name: str, imgsz: int, folder: Path) -> dict[str, Built]:
    """Build and export a net; ours in both modes.

    Args:
        name: Model YAML without its ending.
        imgsz: Side of the image in pixels.
        folder: Where the files go.

    Returns:
        The nets by their names in the table.
    """
    from ultralytics import YOLO

    torch.manual_seed(0)
    with quiet(), inside(folder):
        yolo = YOLO(f"{name}.yaml")
        arguments = {"format": "onnx", "imgsz": imgsz, "device": "cpu"}
        if name not in PEERS or not yolo.model.blocks(SparseMoE):
            file = Path(yolo.export(**arguments)).resolve()
            net = deepcopy(yolo.model).eval().fuse(verbose=False)
            return {name: Built(net, file, gflops(net, imgsz))}
        arguments |= {"dsmoe_parity": False, "data": str(boards(folder))}
        found = {}
        for mode in MODES:
            net = deepcopy(yolo.model).fuse(verbose=False)
            exported = yolo.export(**arguments, dsmoe_moe=mode)
            file = Path(exported).resolve().rename(folder / f"{name}-{mode}.onnx")
            kept = kept_experts(file)
            net.set_moe_mode(mode, kept)
            found[f"{name} {mode}"] = Built(net, file, gflops(net, imgsz), kept and len(kept[0]))
    return found


def gflops(net: torch.nn.Module, imgsz: int) -> float:
    """Return the executed work of one image (2 x multiply-accumulate), counted alike for ours and the peers."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, imgsz, imgsz))
    return counter.get_total_flops() / 1e9


def boards(folder: Path) -> Path:
    """Return the data YAML of a generated board set in ``folder``."""
    file = folder / "boards" / "data.yaml"
    return file if file.exists() else demo.generate(file.parent, train=1, val=ROUTED, size=demo.MIN_SIZE)


def kept_experts(file: Path) -> list[list[int]] | None:
    """Return the experts in a static file, one list per gate; None in another mode."""
    import onnx

    entries = {p.key: p.value for p in onnx.load(file, load_external_data=False).metadata_props}
    return ast.literal_eval(entries["dsmoe_kept"]) if "dsmoe_kept" in entries else None


def missing(runtime: str) -> str | None:
    """Return why a runtime is left out, None where it is there."""
    if runtime == "cuda":
        return None if torch.cuda.is_available() else "PyTorch finds no GPU"
    return None if importlib.util.find_spec(runtime) else "not installed"


def runners(runtime: str, nets: dict[str, Built], image: np.ndarray) -> dict[str, Run]:
    """Return a function per net that runs it on the image."""
    return {name: RUNNERS[runtime](built, image) for name, built in nets.items()}


def onnx_run(built: Built, image: np.ndarray) -> Run:
    """Return a function that runs the file in ONNX Runtime."""
    return onnx_runner(str(built.file), {"images": image})


def torch_run(built: Built, image: np.ndarray) -> Run:
    """Return a function that runs the net eagerly."""
    x = torch.from_numpy(image)

    @torch.no_grad()
    def run() -> Any:
        return built.net(x)

    return run


def cuda_run(built: Built, image: np.ndarray) -> Run:
    """Return a function that runs a copy of the net on the GPU and waits for it."""
    net, x = deepcopy(built.net).cuda(), torch.from_numpy(image).cuda()

    @torch.no_grad()
    def run() -> None:
        net(x)
        torch.cuda.synchronize()

    return run


def openvino_run(built: Built, image: np.ndarray) -> Run:
    """Return a function that runs the file in OpenVINO."""
    import openvino

    # Without the hint, recent processors compute in bfloat16.
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(built.file), "CPU", config)
    return lambda: compiled([image])


RUNNERS = {"onnxruntime": onnx_run, "torch": torch_run, "openvino": openvino_run, "cuda": cuda_run}


def ratios(times: dict[str, Timing]) -> dict[str, Timing]:
    """Return the ratio of each of our nets, in each mode, to its peer."""
    ours = (name for name in times if name.partition(" ")[0] in PEERS)
    return {name: times[name].over(times[PEERS[name.partition(" ")[0]][0]]) for name in ours}


def bars(over: dict[str, Timing]) -> list[Bar]:
    """Return the bars of the nets that were run, from their ratios in ONNX Runtime."""
    pairs = ((name, *peer) for ours, peer in PEERS.items() for name in (ours, f"{ours} gather") if name in over)
    return [Bar.of(f"{name} over {peer}", over[name], aim) for name, peer, aim in pairs]


def report(nets: dict[str, Built], times: dict[str, Timing]) -> list[str]:
    """Return the lines to print for one runtime."""
    over = ratios(times)
    header = ["", "kept", "GFLOPs", *TIMES, *(f"{field} / peer" for field in Timing._fields)]
    rows = [
        [name, str(nets[name].kept or ""), f"{nets[name].gflops:.1f}", *(f"{ms:.1f}" for ms in t),
         *(f"{r:.3f}" for r in over.get(name, ()))]
        for name, t in times.items()
    ]  # fmt: skip
    return table(header, [row + [""] * (len(header) - len(row)) for row in rows])


def content(nets: dict[str, Built], times: dict[str, dict[str, Timing]]) -> dict[str, Any]:
    """Return what the JSON file holds: times and ratios by runtime, and the bars."""
    over = {runtime: ratios(t) for runtime, t in times.items()}
    return {
        "nets": {name: {"gflops": b.gflops, **({"kept": b.kept} if b.kept else {})} for name, b in nets.items()},
        "ms": {runtime: {name: t._asdict() for name, t in found.items()} for runtime, found in times.items()},
        "over_peer": {runtime: {name: r._asdict() for name, r in found.items()} for runtime, found in over.items()},
        "bars": [bar.as_dict() for bar in bars(over.get("onnxruntime", {}))],
    }


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments."""
    parser = arguments("Latency of whole nets beside their peers, batch 1, fp32, one thread.", REPEATS)
    parser.add_argument("--imgsz", type=image_size, default=640, help="side of the image (%(default)s)")
    parser.add_argument("--nets", nargs="+", choices=PEERS, default=list(PEERS), metavar="NET", help="(%(default)s)")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES, metavar="R", help="(%(default)s)")
    return parser.parse_args(argv)


def main() -> None:
    """Print a table per runtime, and the bars."""
    args = parsed()
    torch.set_num_threads(1)
    image = np.random.default_rng(0).random((1, 3, args.imgsz, args.imgsz), dtype=np.float32)
    print(f"batch 1, {args.imgsz} px, 80 classes, random weights, fp32, one thread, {args.repeats} rounds", flush=True)
    times: dict[str, dict[str, Timing]] = {}
    with TemporaryDirectory() as folder:
        names = [name for ours in dict.fromkeys(args.nets) for name in (ours, PEERS[ours][0])]
        nets = {k: built for name in names for k, built in build(name, args.imgsz, Path(folder).resolve()).items()}
        for runtime in args.runtimes:
            if reason := missing(runtime):
                print(f"\n{runtime}: left out, {reason}")
                continue
            times[runtime] = interleave(runners(runtime, nets, image), args.repeats, WARM_UP)
            busy = [] if runtime == "cuda" else caution(times[runtime])
            print("\n".join(["", f"{runtime}:", *report(nets, times[runtime]), *busy]), flush=True)
    found = bars(ratios(times.get("onnxruntime", {})))
    print("\n".join(["", *map(str, found)]))
    write_json(args.json, {**content(nets, times), "imgsz": args.imgsz, "repeats": args.repeats, "threads": 1})


if __name__ == "__main__":
    main()
