"""``dsmoe-yolo topk``."""

from __future__ import annotations

from ultra_dsmoe.commands.arguments import CHECKPOINT, evaluation_options
from ultra_dsmoe.commands.opening import opened, print_notes, progress
from ultra_dsmoe.evaluate.text_table import align_columns
from ultra_dsmoe.explain import topk
from ultra_dsmoe.explain.plots.topk import draw
from ultra_dsmoe.files import write_files
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE
from ultra_dsmoe.parsing import Command, Given, Option, whole


def several_k(key: str, value: str) -> list[int]:
    """Check a list of numbers of experts; gives them in order, without repeats."""
    one = whole(1)
    return sorted({one(key, part.strip()) for part in value.strip("[]").split(",")})


def run(options: Given) -> int:
    """Fill the table, print it, write it as ``topk.csv`` and ``topk.png``."""
    evaluation, folder = opened(options, "topk")
    own = next((m.k for m in evaluation.net.blocks(SparseMoE)), None)
    rows = topk.measure(
        evaluation,
        options.get("k"),
        options.get("rounds", topk.ROUNDS),
        options.get("seed", 0),
        progress=progress("top-k"),
    )
    title = f"Experts per image ({evaluation.path.name}, {evaluation.split} split)"
    files = write_files(folder, {"topk.csv": topk.as_csv(rows).encode(), "topk.png": draw(rows, own, title)})
    print(align_columns(topk.cells(rows)))
    print_notes([], files)
    return 0


COMMAND = Command(
    "topk",
    """Evaluates a DS-MoE checkpoint with k experts per image, for several k: mAP, executed GFLOPs, and latency in torch
and ONNX Runtime on one CPU thread, all of them in turn in every round. Prints a table, writes topk.csv and topk.png.
Every ONNX file passes the parity gate, so its mAP is the net's.""",
    {
        **evaluation_options("topk"),
        "k": Option(several_k, "experts per image", f"those of {','.join(map(str, topk.TABLE_K))} that the model has"),
        "rounds": Option(whole(1, 10_000), "of the latency", str(topk.ROUNDS)),
    },
    run,
    CHECKPOINT,
)
