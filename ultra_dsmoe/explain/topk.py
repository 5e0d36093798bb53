"""The table of k: what a checkpoint gains and costs with k experts per image, for several k."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ultralytics import YOLO
from ultralytics.utils.checks import check_imgsz

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.evaluate.bootstrap import mean_ap
from ultra_dsmoe.evaluate.evaluation import Evaluation, quiet
from ultra_dsmoe.evaluate.text_table import csv_text
from ultra_dsmoe.export.images import channels_of, drawn_images
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE

TABLE_K = (1, 2, 4, 5, 8, 16, 32)  # of the paper's table
ROUNDS, WARM_UP = 30, 3  # timed and untimed passes (our choice)
PIXELS = 640  # where neither command nor checkpoint says


@dataclass(frozen=True)
class Row:
    """One k: accuracy as fractions, work of one image, latencies of one image on one thread in milliseconds."""

    k: int
    map50: float
    map50_95: float
    gflops: float
    torch_ms_median: float
    torch_ms_min: float
    onnx_ms_median: float
    onnx_ms_min: float


def measure(
    evaluation: Evaluation,
    numbers: list[int] | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Fill the table.

    Args:
        evaluation: Checkpoint and data.
        numbers: Experts per image; where omitted, those of `TABLE_K` that the model has.
        rounds: Timed passes.
        seed: Of the images for the latency.
        progress: Called with a line before every step.

    Returns:
        One row per k.

    Raises:
        ConfigError: If the network has no experts, or fewer than asked for.
    """
    numbers = _fitting(evaluation, numbers)
    with quiet():  # a copy: the first evaluation may move the network to a GPU
        timed: Any = deepcopy(evaluation.net).cpu().fuse()
    size: tuple[int, int] = tuple(check_imgsz(evaluation.args.get("imgsz", PIXELS), timed.stride, min_dim=2))
    accuracy, gflops = {}, {}
    for i, k in enumerate(numbers, 1):
        progress(f"{i}/{len(numbers)} mAP with k={k}")
        evaluation.net.set_topk(k)
        accuracy[k] = mean_ap(evaluation.run())
        timed.set_topk(k)
        gflops[k] = timed.gflops(list(size))
    with TemporaryDirectory() as folder:
        progress("latency")
        runs = {**_torch_runs(timed, numbers), **_onnx_runs(evaluation.path, numbers, size, Path(folder))}
        times = latencies(runs, drawn_images(1, size, seed, channels_of(timed)), rounds)
    rows = []
    for k in numbers:
        t, o = times["torch", k], times["onnx", k]
        milliseconds = (np.median(t), t.min(), np.median(o), o.min())
        rows.append(Row(k, *map(float, (*accuracy[k], gflops[k], *milliseconds))))
    return rows


def _fitting(evaluation: Evaluation, numbers: list[int] | None) -> list[int]:
    """Return the numbers that the network can have."""
    mixtures = evaluation.net.blocks(SparseMoE)
    if not mixtures:
        raise ConfigError("model", "a network with a SparseMoE", str(evaluation.path))
    most = min(m.experts for m in mixtures)
    if numbers is None:
        return [k for k in TABLE_K if k <= most]
    if max(numbers) > most:
        raise ConfigError("k", f"numbers from 1 to {most} (the experts of the model)", str(max(numbers)))
    return numbers


Key = tuple[str, int]
Run = Callable[[torch.Tensor], Any]


def _torch_runs(net: Any, numbers: list[int]) -> dict[Key, Run]:
    """Return one function per k that runs the net."""

    def run(k: int, image: torch.Tensor) -> Any:
        net.set_topk(k)  # microseconds
        with torch.inference_mode():
            return net(image)

    return {("torch", k): functools.partial(run, k) for k in numbers}


def _onnx_runs(path: Path, numbers: list[int], size: tuple[int, int], folder: Path) -> dict[Key, Run]:
    """Export a file per k into ``folder`` and return one function per k that runs it on one thread."""
    import onnxruntime

    def run(session: Any, image: torch.Tensor) -> Any:
        return session.run(None, {session.get_inputs()[0].name: image.numpy()})

    runs: dict[Key, Run] = {}
    for k in numbers:
        checkpoint = Path(shutil.copy(path, folder / f"k{k}.pt"))
        with quiet():
            file = YOLO(checkpoint).export(format="onnx", imgsz=list(size), device="cpu", dsmoe_topk=k)
        checkpoint.unlink()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        runs["onnx", k] = functools.partial(run, session)
    return runs


def latencies(runs: dict[Key, Run], image: torch.Tensor, rounds: int) -> dict[Key, np.ndarray]:
    """Time all runs on one thread, one after the other in every round, so that a busy machine is fair to all.

    Args:
        runs: What to time.
        image: Input, (1, C, H, W).
        rounds: Timed passes of each.

    Returns:
        Milliseconds, (rounds,) each.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times: dict[Key, list[float]] = {key: [] for key in runs}
    try:
        for i in range(WARM_UP + rounds):
            for key, run in runs.items():
                start = time.perf_counter()
                run(image)
                if i >= WARM_UP:
                    times[key].append(1e3 * (time.perf_counter() - start))
    finally:
        torch.set_num_threads(threads)
    return {key: np.array(values) for key, values in times.items()}


def as_csv(rows: list[Row]) -> str:
    """Return the table as comma-separated values."""
    head = [f.name for f in fields(Row)]
    return csv_text([head, *([row.k, *(f"{x:.4f}" for x in astuple(row)[1:])] for row in rows)])


def cells(rows: list[Row]) -> list[list[str]]:
    """Return the table as text, headings first."""
    head = ["k", "mAP50", "mAP50-95", "GFLOPs", "torch ms", "(min)", "ONNX Runtime ms", "(min)", ""]
    numbers = [(f"{r.map50:.3f}", f"{r.map50_95:.3f}", f"{r.gflops:.2f}") for r in rows]
    times = [[f"{x:.2f}" for x in astuple(r)[4:]] for r in rows]
    return [head, *([str(r.k), *n, *t, ""] for r, n, t in zip(rows, numbers, times, strict=True))]
