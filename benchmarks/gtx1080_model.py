"""Latency to expect on a GTX 1080: ``python benchmarks/gtx1080_model.py [dsmoe-n ...] [--imgsz 640]``.

Modelled, not measured. A straight line through two published timings of that card, milliseconds over GFLOPs, put beside
two limits that no implementation can pass: the card's arithmetic, and one trip of weights and feature maps to memory.

Sources: timings from the README of wang-xinyu/tensorrtx, GTX 1080, TensorRT 7, batch 1, 608 px, inference and
suppression, without preprocessing; YOLOv5 v4 GFLOPs from its README, YOLOv3's from darknet's site; the card from
NVIDIA's specification; DP4A from NVIDIA's "8-bit inference with TensorRT".
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

PEAK_FP32_TFLOPS = 8.87  # 2560 lanes at 1.733 GHz, a multiply and an add each
PEAK_INT8_TOPS = 35.5  # four multiply-adds per lane and clock
MEMORY_GB_S = 320
TIMED_PX = 608


class Timed(NamedTuple):
    """A published timing: GFLOPs at ``px``, and frames per second at 608 px in FP32."""

    name: str
    gflops: float
    px: int
    fps: float

    @property
    def gflops_timed(self) -> float:
        """GFLOPs at the size of the timing."""
        return self.gflops * (TIMED_PX / self.px) ** 2

    @property
    def ms(self) -> float:
        """Milliseconds per image."""
        return 1000 / self.fps


FITTED = (Timed("YOLOv5s v4", 17.0, 640, 142), Timed("YOLOv5m v4", 51.3, 640, 71))
HELD_OUT = (
    Timed("YOLOv5l v4", 115.4, 640, 40),
    Timed("YOLOv5x v4", 218.8, 640, 27),
    Timed("YOLOv3", 140.69, 608, 39.2),
    Timed("YOLOv3-tiny", 5.56, 416, 333),
)
INT8_SPEEDUP = (71.4 / 39.2, 204 / 90)  # published pairs on the card: YOLOv3, RetinaFace-R50
PAPER_MS = 11.0  # what the DS-MoE paper reports for the card
# Our judgement, for nets of YOLOv5's make below the l size (held out: 9 %); the rows of `HELD_OUT` show what happens
# outside.
BAND = 0.25
NETS = ("dsmoe-n", "dsmoe-s", "dsmoe", "yolo11n", "yolov8n", "yolov8s", "yolov8m")


def line() -> tuple[float, float]:
    """Return offset (ms) and slope (ms per GFLOP) of the line through the fitted timings."""
    small, medium = FITTED
    slope = (medium.ms - small.ms) / (medium.gflops_timed - small.gflops_timed)
    return small.ms - slope * small.gflops_timed, slope


def modelled_ms(gflops: float) -> float:
    """Return the modelled FP32 latency of a net."""
    offset, slope = line()
    return offset + slope * gflops


def modelled_int8_ms(gflops: float) -> tuple[float, float]:
    """Return the band for INT8: all of the latency sped up at best, only what grows with the work at worst."""
    offset, _ = line()
    fp32 = modelled_ms(gflops)
    best, worst = fp32 / max(INT8_SPEEDUP), offset + (fp32 - offset) / min(INT8_SPEEDUP)
    return best * (1 - BAND), worst * (1 + BAND)


def gflops_of(ms: float) -> float:
    """Return the work of a net whose modelled FP32 latency is ``ms``."""
    offset, slope = line()
    return (ms - offset) / slope


def measure(name: str, imgsz: int) -> tuple[float, float]:
    """Build a net from its model YAML; return its GFLOPs and the bytes that it moves at least, in GB.

    Weights and results of convolutions and linear layers are counted, a result once written and once read; what lies
    between them can be fused away.
    """
    import torch
    from torch import nn
    from ultralytics import YOLO
    from ultralytics.utils.torch_utils import get_flops

    net = YOLO(f"{name}.yaml").model.eval()
    gflops = net.gflops(imgsz) if hasattr(net, "gflops") else get_flops(net, imgsz)  # ours counts k of N experts
    values = 0

    def count(module: nn.Module, _inputs: object, result: torch.Tensor) -> None:
        nonlocal values
        values += 2 * result.numel() + sum(p.numel() for p in module.parameters(recurse=False))

    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            module.register_forward_hook(count)
    with torch.no_grad():
        net(torch.zeros(1, 3, imgsz, imgsz))
    return gflops, values * 4 / 1e9


def report(nets: Sequence[str], imgsz: int) -> list[str]:
    """Return the lines to print."""
    offset, slope = line()
    lines = [
        f"GTX 1080, batch 1, {imgsz} px: modelled, not measured",
        f"FP32 = {offset:.1f} ms + {slope:.3f} ms x GFLOPs, +-{BAND:.0%} for nets of YOLOv5's make; "
        "INT8: published speed-ups on all of it, or on the second term alone",
        f"{'net':<14}{'GFLOPs':>8}{'FP32, ms':>22}{'INT8, ms':>22}{'at peak FP32':>14}{'INT8':>7}{'memory':>8}",
    ]
    for name in nets:
        gflops, gigabytes = measure(name, imgsz)
        fp32 = modelled_ms(gflops)
        int8 = modelled_int8_ms(gflops)
        lines.append(
            f"{name:<14}{gflops:>8.1f}{f'{fp32:.1f} ({fp32 * (1 - BAND):.1f} to {fp32 * (1 + BAND):.1f})':>22}"
            f"{f'{int8[0]:.1f} to {int8[1]:.1f}':>22}{gflops / PEAK_FP32_TFLOPS:>14.2f}"
            f"{gflops / PEAK_INT8_TOPS:>7.2f}{gigabytes / MEMORY_GB_S * 1000:>8.2f}"
        )
    low, mid, high = (gflops_of(PAPER_MS / share) for share in (1 + BAND, 1, 1 - BAND))
    lines.append(f"{PAPER_MS:.0f} ms in FP32, which the paper reports: {mid:.0f} GFLOPs ({low:.0f} to {high:.0f})")
    return [*lines, "", *_checks()]


def _checks() -> list[str]:
    """Return the comparison with published timings that the line was not fitted to."""
    rows = []
    for timed in HELD_OUT:
        gflops, ms = timed.gflops_timed, modelled_ms(timed.gflops_timed)
        published = f"published {timed.ms:.1f} ms, modelled {ms:.1f} ({ms / timed.ms - 1:+.0%})"
        rows.append(f"  {timed.name:<14}{gflops:>7.1f} GFLOPs: {published}")
    return [
        "published timings of the card that the line has not seen:",
        *rows,
        "A net with more and smaller layers than YOLOv5, as ours, may lie above the band; experts, sampling and the",
        "head's last layers stay FP32 in an INT8 engine.",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Latency to expect on a GTX 1080: modelled, not measured.")
    parser.add_argument("nets", nargs="*", default=NETS, metavar="NET", help="model YAMLs (%(default)s)")
    parser.add_argument("--imgsz", type=int, default=640, help="side of the image (%(default)s)")
    args = parser.parse_args()
    try:
        print("\n".join(report(args.nets, args.imgsz)))
    except FileNotFoundError as e:
        parser.error(f"nets: expected names of model YAMLs, got {e}")


if __name__ == "__main__":
    main()
