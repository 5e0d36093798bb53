"""The routing map: which experts a checkpoint uses for which defect, as picture and table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from torch import nn

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.evaluate.evaluation import Evaluation, ImageStats
from ultra_dsmoe.evaluate.text_table import csv_text
from ultra_dsmoe.explain.plots.routing_map import draw, sentence
from ultra_dsmoe.explain.record import blocks, recording
from ultra_dsmoe.explain.routing import RoutingMap, kind, routing_map
from ultra_dsmoe.nn.knockout import Record
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate

Block = TypeVar("Block", bound=nn.Module)
SHUFFLES = 200  # the 95 % level then rests on 10 of them (our choice)


def collect(evaluation: Evaluation, shuffles: int = SHUFFLES, seed: int = 0) -> tuple[dict[str, RoutingMap], list[str]]:
    """Run the images through the network and map every gate.

    Args:
        evaluation: Checkpoint and data.
        shuffles: How often to shuffle routes between images.
        seed: Of the shuffles.

    Returns:
        The map of each gate by a suffix for file names (empty for the only gate), and the image files in order.

    Raises:
        ConfigError: If the network has no gate.
    """
    gates = blocks(evaluation.net, ExpertGate)
    if not gates:
        raise ConfigError("model", "a network with an ExpertGate", str(evaluation.path))
    record = Record()
    stats = evaluation.run(recording(evaluation.net, record))
    maps = {
        suffix: _map(record, gate, stats, evaluation.names, shuffles, seed)
        for gate, suffix in block_suffixes(evaluation.net, gates)
    }
    return maps, stats.files


def block_suffixes(net: nn.Module, found: list[Block]) -> list[tuple[Block, str]]:
    """Return each block with a suffix for file names: where in the network it is, nothing for the only one."""
    return [(block, f"_{block_name(net, block)}" if len(found) > 1 else "") for block in found]


def block_name(net: nn.Module, block: nn.Module) -> str:
    """Return where in the network a block is, as ``row17``."""
    path = next(name for name, m in net.named_modules() if m is block)
    return "row" + path.removeprefix("model.").replace(".", "_")


def _map(record: Record, gate: ExpertGate, stats: ImageStats, names: list[str], shuffles: int, seed: int) -> RoutingMap:
    weights = record.routing(gate).numpy()
    return routing_map(weights, stats.target_cls, names, text=gate.has_text, shuffles=shuffles, seed=seed)


def table(routes: RoutingMap) -> str:
    """Return the map as comma-separated values, one line per class and expert; shares within [0, 1]."""
    rows: list[list[object]] = [
        ["class", "images", "expert", "kind", "text_class", "chosen_share", "mean_weight", "usage"]
    ]
    counts, share, mean, usage = routes.present.sum(0), routes.share, routes.mean_weight, routes.usage
    for row, name in enumerate(routes.rows):
        for n, own in enumerate(routes.own_class):
            numbers = (f"{x:.5f}" for x in (share[row, n], mean[row, n], usage[n]))
            text_class = routes.rows[own] if own >= 0 else ""
            rows.append([name, counts[row], n, kind(n), text_class, *numbers])
    return csv_text(rows)


def per_image(routes: RoutingMap, files: list[str]) -> str:
    """Return classes and experts of each image as comma-separated values, the heaviest expert first."""
    rows = [["image", "classes", "experts", "weights"]]
    for file, shown, weights in zip(files, routes.present, routes.weights, strict=True):
        experts = np.argsort(-weights, kind="stable")[: int((weights > 0).sum())]
        classes = "; ".join(np.array(routes.rows)[shown])
        rows.append([file, classes, " ".join(map(str, experts)), " ".join(f"{weights[n]:.4f}" for n in experts)])
    return csv_text(rows)


def routing_files(
    maps: Mapping[str, RoutingMap], files: list[str], evaluation: Evaluation
) -> tuple[dict[str, bytes], list[str]]:
    """Return picture and tables of each gate by file name, and a line on each."""
    written: dict[str, bytes] = {}
    notes = []
    for suffix, routes in maps.items():
        title = f"Which experts the model uses for which defect ({origin(evaluation, suffix, len(files))})"
        written[f"routing_map{suffix}.png"] = draw(routes, title)
        written[f"routing_map{suffix}.csv"] = table(routes).encode()
        written[f"routing_images{suffix}.csv"] = per_image(routes, files).encode()
        unused = [str(n) for n in np.flatnonzero(routes.usage == 0)]
        notes.append(f"{suffix[1:] or 'gate'}: {sentence(routes)}; unused experts: {', '.join(unused) or 'none'}")
    return written, notes


def origin(evaluation: Evaluation, suffix: str, images: int | None = None) -> str:
    """Return what a picture was made from: checkpoint, images, and the row where several could be meant."""
    parts = [evaluation.path.name, f"{images} images" if images is not None else "", suffix[1:]]
    return ", ".join(part for part in parts if part)
