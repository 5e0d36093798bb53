"""What sparse training costs: ``python -m benchmarks.train_step [--json FILE] [--batch N] [--imgsz N]``.

Work: the SparseMoE row of ``dsmoe-s`` at 640 px, batch 16, k = 5 of 32 experts drawn anew for every image; operations
of forward and backward as torch counts them, over those of the chosen (image, expert) pairs and nothing else.

Time: a step of ``dsmoe-s`` beside one of ``yolov8s``, in turn: forward, the net's own loss on drawn boxes, backward,
update. On a GPU in the mixed precision of the host's trainer, on a CPU in fp32 on one thread.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))  # as a script and with -m alike

from interleaved import TIMES, Bar, Timing, arguments, caution, image_size, interleave, positive, table, write_json

from ultra_dsmoe.evaluate.evaluation import quiet
from ultra_dsmoe.nn import SparseMoE
from ultra_dsmoe.nn.neck.experts import GLOBAL_POOLS, LOCAL_KERNEL

CHANNELS, PIXELS, EXPERTS, K = 128, 40, 32, 5
CLASSES, TEXT_WIDTH = 20, 256
WORK_BATCH = 16
PASSES = 3  # a forward, and as much again for the gradient of the input and for that of the weights
OURS, PEER = "dsmoe-s", "yolov8s"
WORK_AIM, TIME_AIM = 1.2, 1.3
BOXES = 8  # per drawn image (our choice)
ON_CPU, ON_GPU = (2, 320), (16, 640)  # batch and image size
REPEATS, WARM_UP = 10, 2


def ideal_flops(chosen: Tensor, channels: int, positions: int) -> int:
    """Return the work of forward and backward of the chosen pairs, counted by hand.

    Args:
        chosen: Which image has which expert, bool (B, N).
        channels: C.
        positions: H * W.
    """
    local = 2 * LOCAL_KERNEL * channels + channels * channels
    wide = (1 + len(GLOBAL_POOLS)) * channels * channels
    cross = channels * channels + 9 * channels
    pairs = chosen.sum(0)
    macs = int(pairs[0]) * local + int(pairs[1]) * wide + int(pairs[2:].sum()) * cross
    return PASSES * 2 * macs * positions


def conv_backward_flops(grad: Sequence[int], _x: Sequence[int], weight: Sequence[int], *rest: Any, **_: Any) -> int:
    """Return the work of a convolution's gradients; torch's own count takes grouped convolutions for full ones."""
    wanted = rest[-1]  # gradient of input, of weight, of bias
    return 2 * torch.Size(grad).numel() * torch.Size(weight[1:]).numel() * sum(wanted[:2])


def measured_flops(block: SparseMoE, inputs: list[Tensor]) -> int:
    """Return the work of a forward and a backward in training, as executed."""
    mapping = {torch.ops.aten.convolution_backward: conv_backward_flops}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        block.train()(inputs).sum().backward()
    return counter.get_total_flops()


def routes(batch: int, experts: int, k: int) -> Tensor:
    """Return gate weights (B, N) of k experts per image, drawn anew for every image."""
    logits = torch.rand(batch, experts, generator=torch.Generator().manual_seed(0))
    weight, idx = logits.topk(k)
    return torch.zeros(batch, experts).scatter(1, idx, torch.softmax(weight, 1))


def work(channels: int = CHANNELS, pixels: int = PIXELS, experts: int = EXPERTS, k: int = K) -> tuple[int, int]:
    """Return executed and ideal work of the block, operations."""
    torch.manual_seed(0)
    block = SparseMoE(channels, experts, k, text_width=TEXT_WIDTH)
    gate = routes(WORK_BATCH, experts, k)
    inputs = [torch.randn(WORK_BATCH, channels, pixels, pixels), torch.randn(CLASSES, TEXT_WIDTH), gate]
    executed = measured_flops(block, [x.requires_grad_() for x in inputs])
    return executed, ideal_flops(gate > 0, channels, pixels * pixels)


def drawn_batch(batch: int, imgsz: int, classes: int, device: torch.device) -> dict[str, Tensor]:
    """Return images and boxes as the host's loader hands them to a net."""
    generator = torch.Generator().manual_seed(0)
    sizes = 0.05 + 0.25 * torch.rand(batch * BOXES, 2, generator=generator)
    centres = sizes / 2 + (1 - sizes) * torch.rand(batch * BOXES, 2, generator=generator)
    drawn = {
        "img": torch.rand(batch, 3, imgsz, imgsz, generator=generator),
        "cls": torch.randint(classes, (batch * BOXES, 1), generator=generator).float(),
        "bboxes": torch.cat([centres, sizes], 1),
        "batch_idx": torch.arange(batch).repeat_interleave(BOXES).float(),
    }
    return {key: value.to(device) for key, value in drawn.items()}


def net_of(name: str, device: torch.device) -> Any:
    """Return a net built from its model YAML, with what the host's trainer puts on it."""
    from ultralytics import YOLO
    from ultralytics.cfg import get_cfg

    torch.manual_seed(0)
    with quiet():
        net: Any = YOLO(f"{name}.yaml").model.to(device)
    net.args = get_cfg()  # the loss reads its gains there
    return net


def step_of(net: nn.Module, data: dict[str, Tensor]) -> Callable[[], None]:
    """Return a function that takes one training step of a net, or of one that learns from a teacher."""
    device = data["img"].device
    gpu = device.type == "cuda"
    optimizer = torch.optim.SGD(net.train().parameters(), lr=1e-4, momentum=0.9)  # small: drawn boxes mean nothing
    scaler = torch.amp.GradScaler(device.type, enabled=gpu)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, enabled=gpu):
            loss = net(data)[0].sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if gpu:
            torch.cuda.synchronize()

    return step


def bars(executed: int, ideal: int, times: dict[str, Timing]) -> list[Bar]:
    """Return both bars."""
    return [
        Bar("work over that of the chosen pairs", executed / ideal, WORK_AIM),
        Bar.of(f"step of {OURS} over {PEER}", times[OURS].over(times[PEER]), TIME_AIM),
    ]


def content(executed: int, ideal: int, times: dict[str, Timing]) -> dict[str, Any]:
    """Return what the JSON file holds."""
    return {
        "gflops_executed": executed / 1e9,
        "gflops_ideal": ideal / 1e9,
        "work_over_ideal": executed / ideal,
        "step_over_peer": times[OURS].over(times[PEER])._asdict(),
        "ms": {name: t._asdict() for name, t in times.items()},
        "bars": [bar.as_dict() for bar in bars(executed, ideal, times)],
    }


def parsed(argv: Sequence[str] | None, on_gpu: bool) -> argparse.Namespace:
    """Return the arguments."""
    batch, imgsz = ON_GPU if on_gpu else ON_CPU
    parser = arguments("Work and time of sparse training.", REPEATS)
    parser.add_argument("--batch", type=positive, default=batch, help="images per step (%(default)s)")
    parser.add_argument("--imgsz", type=image_size, default=imgsz, help="side of the images (%(default)s)")
    return parser.parse_args(argv)


def main() -> None:
    """Print work, times and bars."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    args = parsed(None, on_gpu)
    torch.set_num_threads(1)
    executed, ideal = work()
    print(
        f"SparseMoE in training, batch {WORK_BATCH}, k={K} of {EXPERTS}, forward and backward: "
        f"{executed / 1e9:.2f} GFLOPs, the chosen pairs alone {ideal / 1e9:.2f}",
        flush=True,
    )
    precision = "one GPU, mixed precision" if on_gpu else "one CPU thread, fp32"
    print(f"training step, batch {args.batch}, {args.imgsz} px, {precision}, {args.repeats} rounds", flush=True)
    steps = {}
    for name in (OURS, PEER):
        net = net_of(name, device)
        steps[name] = step_of(net, drawn_batch(args.batch, args.imgsz, net.yaml["nc"], device))
    times = interleave(steps, args.repeats, WARM_UP)
    rows = [[name, *(f"{ms:.1f}" for ms in t)] for name, t in times.items()]
    busy = [] if on_gpu else caution(times)
    print("\n".join([*table(["", *TIMES], rows), *busy, *map(str, bars(executed, ideal, times))]))
    found = {"device": device.type, "batch": args.batch, "imgsz": args.imgsz, "repeats": args.repeats}
    write_json(args.json, {**content(executed, ideal, times), **found})


if __name__ == "__main__":
    main()
