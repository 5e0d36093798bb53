"""Latency of the mixture of experts by mode: ``python -m benchmarks.moe_latency [--json FILE] [--repeats N]``.

The SparseMoE row of ``dsmoe-s`` at 640 px, which is 32 experts on 128 channels and 40x40 positions, text folded to
constants, exported and simplified as the host does it, on one thread of ONNX Runtime. The gate is a row of its own: its
weights are an input. The images are sent to experts 0 to k-1, both of the universal ones among them, which are the
dearest for ``static``; the cost of ``gather`` and ``dense`` does not depend on the route.

Before anything is timed, all files must agree with the dense one where they compute the same, and the gathered ones
must follow another route than the one they were traced with.

``static 32`` keeps all the experts: it shows that dense execution, the reference of the ratios, is no slow one.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))  # as a script and with -m alike

from interleaved import TIMES, Bar, Timing, arguments, caution, interleave, onnx_runner, table, write_json

from ultra_dsmoe.nn import SparseMoE

CHANNELS, PIXELS, EXPERTS = 128, 40, 32
CLASSES, TEXT_WIDTH = 20, 256
GATHER_K = (1, 2, 4, 5, 8, 16)
STATIC_KEPT = (5, 8, EXPERTS)
K = 5  # ceil(log2 N)
GATHER_AIM, STATIC_AIM, GROWTH_AIM = 0.30, 0.24, 1.3
TOLERANCE = 1e-4  # between two modes, absolute; the mixture's values are of order one
REPEATS = 60


@dataclass(frozen=True)
class Variant:
    """One exported file: mode, experts per image, number of kept experts in ``static``."""

    mode: str
    k: int
    kept: int | None = None

    @property
    def name(self) -> str:
        """Name in the table."""
        return {"gather": f"gather k={self.k}", "static": f"static {self.kept}"}.get(self.mode, self.mode)


VARIANTS = (
    Variant("dense", K),
    *(Variant("gather", k) for k in GATHER_K),
    *(Variant("static", min(K, kept), kept) for kept in STATIC_KEPT),
)


class Row(nn.Module):
    """The block as a net calls it, with tensors in place of its list."""

    def __init__(self, block: SparseMoE) -> None:
        """Wrap a block whose text is folded."""
        super().__init__()
        self.block = block.eval()
        self.eval()  # training would unfold the text

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """Return the mixture, (1, C, H, W)."""
        return self.block([x, None, gate])


def build(variant: Variant, channels: int, experts: int) -> Row:
    """Build the block; all variants get the same parameters."""
    torch.manual_seed(0)
    block = SparseMoE(channels, experts, variant.k, text_width=TEXT_WIDTH).eval()
    block.fold_text(torch.randn(CLASSES, TEXT_WIDTH))
    block.set_mode(variant.mode, None if variant.kept is None else range(variant.kept))
    return Row(block)


def route(chosen: Iterable[int], experts: int) -> Tensor:
    """Return gate weights, (1, N): positive and of sum 1 on the chosen experts."""
    chosen = list(chosen)
    gate = torch.zeros(1, experts)
    gate[0, chosen] = torch.softmax(torch.linspace(0, 1, len(chosen)), 0)
    return gate


def exported(row: Row, inputs: tuple[Tensor, Tensor]) -> bytes:
    """Export a block as the host exports a net: traced, at our opset, simplified."""
    import onnx
    import onnxslim

    from ultra_dsmoe.export.exporting import OPSET, traced

    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad(), traced():
        warnings.simplefilter("ignore")
        torch.onnx.export(row, inputs, buffer, opset_version=OPSET, input_names=["x", "gate"])
    return onnxslim.slim(onnx.load_from_string(buffer.getvalue())).SerializeToString()


def gflops(row: Row, inputs: tuple[Tensor, Tensor]) -> float:
    """Return the executed work (2 x multiply-accumulate) of convolutions and products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        row(*inputs)
    return counter.get_total_flops() / 1e9


@dataclass
class Candidate:
    """A file that is ready to run on ``feed``, with its own k experts chosen."""

    variant: Variant
    gflops: float
    feed: dict[str, np.ndarray]
    run: Callable[[], np.ndarray]

    def on(self, gate: Tensor) -> np.ndarray:
        """Return the result of another route."""
        usual = self.feed["gate"].copy()
        self.feed["gate"][:] = gate.numpy()
        try:
            return self.run()
        finally:
            self.feed["gate"][:] = usual


def candidates(variants: Iterable[Variant], channels: int, pixels: int, experts: int) -> dict[str, Candidate]:
    """Build, count and export all variants."""
    x = torch.randn(1, channels, pixels, pixels, generator=torch.Generator().manual_seed(1))
    found = {}
    for variant in variants:
        inputs = x, route(range(variant.k), experts)
        row = build(variant, channels, experts)
        feed = {"x": inputs[0].numpy(), "gate": inputs[1].numpy()}
        found[variant.name] = Candidate(variant, gflops(row, inputs), feed, onnx_runner(exported(row, inputs), feed))
    return found


def check(files: dict[str, Candidate], experts: int) -> float:
    """Compare every file with the dense one on two routes; return the largest difference.

    Raises:
        RuntimeError: If two files that compute the same differ, or a gathered one does not follow the route.
    """
    dense, largest = files["dense"], 0.0
    for name, file in files.items():
        k = file.variant.k
        routes = [route(range(k), experts)]
        if file.variant.mode == "gather":
            routes.append(route(range(experts - k, experts), experts))  # static files keep experts 0 to k-1 only
        results = [file.on(gate) for gate in routes]
        for gate, got in zip(routes, results, strict=True):
            difference = float(np.abs(got - dense.on(gate)).max())
            if difference > TOLERANCE:
                raise RuntimeError(f"{name} differs from dense by {difference:.1e}, more than {TOLERANCE:.0e}")
            largest = max(largest, difference)
        if len(results) > 1 and np.abs(results[0] - results[1]).max() <= TOLERANCE:
            raise RuntimeError(f"{name} gives two routes the same result")
    return largest


def fit(work: list[float], latency_ms: list[float]) -> tuple[float, float]:
    """Return intercept (ms) and slope (ms per GFLOP) of the least-squares line through latencies over work."""
    slope, fixed = np.polyfit(work, latency_ms, 1)
    return float(fixed), float(slope)


def expected_growth(few: float, many: float, fixed: float, slope: float) -> float:
    """Return how much longer the larger of two amounts of work should take.

    That is the ratio of work, diluted by the fixed part. A fixed part below zero says that latency grows faster than
    work; it counts as none, or it would excuse just that.

    Args:
        few: Smaller amount, GFLOPs.
        many: Larger amount, GFLOPs.
        fixed: ms at no work.
        slope: ms per GFLOP.
    """
    fixed = max(fixed, 0.0)
    return (fixed + slope * many) / (fixed + slope * few)


def growth(work: dict[str, float], times: dict[str, float]) -> dict[str, float]:
    """Return the line through gathered execution, and how latency grows from k = 1 to 8 beside what is expected."""
    names = [f"gather k={k}" for k in GATHER_K]
    fixed, slope = fit([work[n] for n in names], [times[n] for n in names])
    few, many = "gather k=1", "gather k=8"
    return {
        "fixed_ms": fixed,
        "ms_per_gflop": slope,
        "k8_over_k1": times[many] / times[few],
        "k8_over_k1_gflops": work[many] / work[few],
        "k8_over_k1_expected": expected_growth(work[few], work[many], fixed, slope),
    }


def bars(work: dict[str, float], times: dict[str, Timing]) -> list[Bar]:
    """Return the bars of the block."""
    grown = [growth(work, {name: t[i] for name, t in times.items()}) for i in range(len(Timing._fields))]
    beyond = Timing(*(g["k8_over_k1"] / g["k8_over_k1_expected"] for g in grown))
    return [
        Bar.of(f"gather k={K} over dense", times[f"gather k={K}"].over(times["dense"]), GATHER_AIM),
        Bar.of("static 5 over dense", times["static 5"].over(times["dense"]), STATIC_AIM),
        Bar.of("k=8 over k=1, beyond work and fixed part", beyond, GROWTH_AIM),
    ]


def report(work: dict[str, float], times: dict[str, Timing]) -> list[str]:
    """Return the lines to print."""
    rows = [
        [name, f"{work[name]:.3f}", *(f"{ms:.2f}" for ms in t), *(f"{r:.3f}" for r in t.over(times["dense"]))]
        for name, t in times.items()
    ]
    grown = growth(work, {name: t.minimum for name, t in times.items()})
    return [
        *table(["", "GFLOPs", *TIMES, *(f"{field} / dense" for field in Timing._fields)], rows),
        f"gather: {grown['fixed_ms']:.2f} ms fixed + {grown['ms_per_gflop']:.2f} ms per GFLOP (least squares, minima)",
        f"k=8 over k=1: {grown['k8_over_k1']:.2f}; by work alone {grown['k8_over_k1_gflops']:.2f}, by work and fixed "
        f"part {grown['k8_over_k1_expected']:.2f}",
        *map(str, bars(work, times)),
        *caution(times),
    ]


def content(work: dict[str, float], times: dict[str, Timing]) -> dict[str, Any]:
    """Return what the JSON file holds; ratios are those of the smallest times unless their name says otherwise."""
    over = {name: t.over(times["dense"]) for name, t in times.items()}
    gather = over[f"gather k={K}"]
    return {
        "gather_k5_over_dense": gather.minimum,
        "gather_k5_over_dense_median": gather.median,
        "gather_k5_over_dense_processor": gather.processor,
        "static_5_over_dense": over["static 5"].minimum,
        **growth(work, {name: t.minimum for name, t in times.items()}),
        "variants": {
            name: {
                "gflops": work[name],
                **{f"{field}_ms": ms for field, ms in t._asdict().items()},
                **{f"{field}_over_dense": ratio for field, ratio in over[name]._asdict().items()},
            }
            for name, t in times.items()
        },
        "bars": [bar.as_dict() for bar in bars(work, times)],
    }


def main() -> None:
    """Print the table."""
    parser = arguments("Latency of the mixture of experts by mode, ONNX Runtime, one thread.", REPEATS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    files = candidates(VARIANTS, CHANNELS, PIXELS, EXPERTS)
    difference = check(files, EXPERTS)
    print(
        f"SparseMoE, {CHANNELS} channels, {PIXELS}x{PIXELS}, {EXPERTS} experts, one thread of ONNX Runtime, "
        f"{args.repeats} rounds; all modes agree to {difference:.0e}"
    )
    times = interleave({name: file.run for name, file in files.items()}, args.repeats)
    work = {name: file.gflops for name, file in files.items()}
    print("\n".join(report(work, times)))
    write_json(args.json, {**content(work, times), "repeats": args.repeats, "threads": 1})


if __name__ == "__main__":
    main()
