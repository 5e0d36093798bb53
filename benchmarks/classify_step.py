"""What teaching by texts costs: ``python -m benchmarks.classify_step [--json FILE] [--batch N] [--imgsz N]``.

A training step of ``yolov8n-pfa-cls`` in each phase, with texts at training only and always, beside one of the stock
``yolov8n-cls``: forward, the net's own loss, backward, update, on drawn images whose fourth channel holds drawn texts.
The encoder's work is none of a step's: texts are encoded once, before the training. On one CPU thread, fp32.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))  # as a script and with -m alike

from interleaved import TIMES, Bar, Timing, arguments, caution, image_size, interleave, positive, table, write_json
from train_step import net_of, step_of

from ultra_dsmoe.evaluate.evaluation import quiet
from ultra_dsmoe.model.classifier import PairModel
from ultra_dsmoe.nn.head.pair_classify import PHASES

OURS, PEER = "yolov8n-pfa-cls", "yolov8n-cls"
CLASSES = 5
AIM = 1.3
BATCH, IMGSZ = 10, 224  # the paper's
REPEATS, WARM_UP = 10, 2


def net_with(text_mode: str) -> PairModel:
    """Return our net in one of its two modes."""
    from ultralytics.nn.tasks import yaml_model_load

    with quiet():
        cfg = yaml_model_load(f"{OURS}.yaml")
        cfg["dsmoe"]["text_mode"] = text_mode
        torch.manual_seed(0)
        return PairModel(cfg, nc=CLASSES, verbose=False)


def drawn_batch(batch: int, imgsz: int, channels: int) -> dict[str, Tensor]:
    """Return images, classes and which texts are equal, as the loader hands them to a net."""
    generator = torch.Generator().manual_seed(0)
    return {
        "img": torch.rand(batch, channels, imgsz, imgsz, generator=generator),
        "cls": torch.randint(CLASSES, (batch,), generator=generator),
        "groups": torch.arange(batch).unsqueeze(1).expand(batch, 2),
        "turn": torch.zeros(batch, dtype=torch.long),
    }


def steps(batch: int, imgsz: int) -> dict[str, Any]:
    """Return what is timed: the stock step, and ours by mode and phase."""
    peer = net_of(PEER, torch.device("cpu"))
    with quiet():
        peer.reshape_outputs(peer, CLASSES)
    found: dict[str, Any] = {PEER: step_of(peer, drawn_batch(batch, imgsz, 3))}
    for mode in ("train", "always"):
        for phase in PHASES:
            net = net_with(mode)
            net.head.phase = phase
            found[f"{mode}, {phase}"] = step_of(net, drawn_batch(batch, imgsz, 4))
    return found


def bars(times: dict[str, Timing]) -> list[Bar]:
    """Return a bar for each of our steps."""
    return [Bar.of(f"step, {name}", t.over(times[PEER]), AIM) for name, t in times.items() if name != PEER]


def content(times: dict[str, Timing]) -> dict[str, Any]:
    """Return what the JSON file holds."""
    return {"ms": {name: t._asdict() for name, t in times.items()}, "bars": [bar.as_dict() for bar in bars(times)]}


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments."""
    parser = arguments("Time of a training step of a classifier that texts teach.", REPEATS)
    parser.add_argument("--batch", type=positive, default=BATCH, help="images per step (%(default)s)")
    parser.add_argument("--imgsz", type=image_size, default=IMGSZ, help="side of the images (%(default)s)")
    return parser.parse_args(argv)


def main() -> None:
    """Print times and bars."""
    args = parsed(None)
    torch.set_num_threads(1)
    print(f"training step, batch {args.batch}, {args.imgsz} px, one CPU thread, {args.repeats} rounds", flush=True)
    times = interleave(steps(args.batch, args.imgsz), args.repeats, WARM_UP)
    rows = [[name, *(f"{ms:.1f}" for ms in t)] for name, t in times.items()]
    print("\n".join([*table(["", *TIMES], rows), *caution(times), *map(str, bars(times))]))
    write_json(args.json, {**content(times), "batch": args.batch, "imgsz": args.imgsz, "repeats": args.repeats})


if __name__ == "__main__":
    main()
