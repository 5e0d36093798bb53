"""What distillation costs: ``python -m benchmarks.distill_step [STUDENT TEACHER] [--batch N] [--imgsz N]``.

In turn: a step of the student alone, a forward pass of the teacher, and a step that distils the one from the other by
``dsmoe_kd=attention``, ``mimic``, ``self`` and ``self-plain``; the last two where both nets have the same strides. A
step is forward, the net's own loss on drawn boxes, backward, update; on a GPU in the mixed precision of the host's
trainer, on a CPU in fp32 on one thread. The aims are for the steps of attention and self over the sum of the first two.
On a GPU the most memory of each is printed too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))  # as a script and with -m alike

from interleaved import TIMES, Bar, Timing, arguments, caution, image_size, interleave, positive, table, write_json
from train_step import ON_CPU, ON_GPU, REPEATS, WARM_UP, drawn_batch, net_of, step_of

from ultra_dsmoe.distill import resolve

STUDENT, TEACHER = "yolov8n", "yolov8m"
ALONE, FORWARD, METHODS = "student step", "teacher forward", ("attention", "mimic", "self", "self-plain")
AIMED = ("attention", "self")
AIM = 1.25


def forward_of(teacher: nn.Module, images: Tensor) -> Callable[[], None]:
    """Return a function that runs a teacher as a distillation does."""
    gpu = images.device.type == "cuda"

    def forward() -> None:
        with torch.no_grad(), torch.autocast(images.device.type, enabled=gpu):
            teacher(images)
        if gpu:
            torch.cuda.synchronize()

    return forward


def candidates(student: str, teacher: str, batch: int, imgsz: int, device: torch.device) -> dict[str, Any]:
    """Return what is timed, by name."""
    from ultra_dsmoe.train.distill_wrapper import FeatureDistillation

    alone, taught_by = net_of(student, device), net_of(teacher, device).eval().requires_grad_(False)
    data = drawn_batch(batch, imgsz, alone.yaml["nc"], device)
    found = {ALONE: step_of(deepcopy(alone), data), FORWARD: forward_of(taught_by, data["img"])}
    for method in METHODS:
        config = resolve(method)
        assert config is not None
        if config.same_levels and alone.stride.tolist() != taught_by.stride.tolist():
            continue
        found[method] = step_of(FeatureDistillation(deepcopy(alone), taught_by, config), data)
    return found


def ratio(times: dict[str, Timing], method: str) -> Timing:
    """Return a distillation step over student step and teacher forward together."""
    both = Timing(*(a + b for a, b in zip(times[ALONE], times[FORWARD], strict=True)))
    return times[method].over(both)


def bars(times: dict[str, Timing]) -> list[Bar]:
    """Return the bars of the steps that have an aim."""
    what = "step over student step + teacher forward"
    return [Bar.of(f"{name} {what}", ratio(times, name), AIM) for name in AIMED if name in times]


def others(times: dict[str, Timing]) -> list[str]:
    """Return a line for each step without one."""
    ratios = {name: ratio(times, name)._asdict() for name in METHODS if name in times and name not in AIMED}
    return [
        f"{name} step over the same: {', '.join(f'{kind} {value:.3f}' for kind, value in found.items())}"
        for name, found in ratios.items()
    ]


def memory(runs: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Return the most memory that a run of each candidate allocates beyond what all hold, MiB; nothing on a CPU."""
    if not torch.cuda.is_available():
        return {}
    found = {}
    for name, run in runs.items():
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run()
        found[name] = (torch.cuda.max_memory_allocated() - held) / 2**20
    return found


def parsed(argv: Sequence[str] | None, on_gpu: bool) -> argparse.Namespace:
    """Return the arguments."""
    batch, imgsz = ON_GPU if on_gpu else ON_CPU
    parser = arguments("Time of a distillation step.", REPEATS)
    parser.add_argument("student", nargs="?", default=STUDENT, help="model YAML without suffix (%(default)s)")
    parser.add_argument("teacher", nargs="?", default=TEACHER, help="the same of the teacher (%(default)s)")
    parser.add_argument("--batch", type=positive, default=batch, help="images per step (%(default)s)")
    parser.add_argument("--imgsz", type=image_size, default=imgsz, help="side of the images (%(default)s)")
    return parser.parse_args(argv)


def main() -> None:
    """Print times, ratios and the bar."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    args = parsed(None, on_gpu)
    torch.set_num_threads(1)
    precision = "one GPU, mixed precision" if on_gpu else "one CPU thread, fp32"
    print(
        f"{args.student} from {args.teacher}, batch {args.batch}, {args.imgsz} px, {precision}, {args.repeats} rounds",
        flush=True,
    )
    runs = candidates(args.student, args.teacher, args.batch, args.imgsz, device)
    times = interleave(runs, args.repeats, WARM_UP)
    used = memory(runs)
    rows = [[name, *(f"{ms:.1f}" for ms in t), *([f"{used[name]:.0f}"] if used else [])] for name, t in times.items()]
    busy = [] if on_gpu else caution(times)
    head = ["", *TIMES, *(["memory, MiB"] if used else [])]
    print("\n".join([*table(head, rows), *busy, *others(times), *map(str, bars(times))]))
    judged = [bar.as_dict() for bar in bars(times)]
    found = {"ms": {name: t._asdict() for name, t in times.items()}, "memory_mib": used, "bars": judged}
    about = {"student": args.student, "teacher": args.teacher, "device": device.type, "batch": args.batch}
    write_json(args.json, {**found, **about, "imgsz": args.imgsz, "repeats": args.repeats})


if __name__ == "__main__":
    main()
