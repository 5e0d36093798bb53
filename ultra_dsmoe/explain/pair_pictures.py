"""Everything that a classifier that texts teach can show, as pictures and tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ultra_dsmoe.evaluate.evaluation import quiet
from ultra_dsmoe.evaluate.text_table import csv_text
from ultra_dsmoe.explain.pairs import PARTS, Pairs, flat, in_turn, look, text_of
from ultra_dsmoe.explain.plots import pairs as plots
from ultra_dsmoe.model.classifier import PairModel

MOST, SHOWN = 300, 12  # pictures whose vectors are drawn, and those that are shown with their texts (our choice)


def pair_files(
    net: PairModel,
    before: PairModel | None,
    images: tuple[list[Path], np.ndarray, list[str]],
    imgsz: int,
    name: str,
    seed: int,
) -> tuple[dict[str, bytes], list[str]]:
    """Return contents by file name, and what to tell.

    Args:
        net: The network.
        before: The same before its alignment; None for an untrained one.
        images: Files, classes and the classes' names of a split.
        imgsz: Size of the images in pixels.
        name: Of the checkpoint, for the titles.
        seed: Of the images that are drawn, of t-SNE, and of the untrained net.
    """
    files, target, names = images
    chosen = in_turn(target, MOST, seed)
    some, kinds, text = [files[i] for i in chosen], target[chosen], text_of(net)
    first = look(before or untrained(net, seed), text, some, kinds, names, imgsz)
    pairs = look(net, text, some, kinds, names, imgsz)
    points, method = zip(*(flat(state.vectors, seed) for state in (first, pairs)), strict=True)
    heads = ("before alignment" if before else "untrained", "as trained")
    panels = list(zip(heads, (first, pairs), points, strict=True))
    about = f"{name}, {len(some)} pictures"
    made = {
        "pair_vectors.png": plots.draw_vectors(panels, f"Pictures and their texts, {method[0]} ({about})"),
        "pair_vectors.csv": vector_table(panels).encode(),
        "pairs.png": plots.draw_pairs(pairs, range(min(SHOWN, len(some))), f"Pictures and their texts ({name})"),
    }
    notes = [f"likeness of pictures and their texts: {first.likeness.mean():.3f} {heads[0]}, "
             f"{pairs.likeness.mean():.3f} {heads[1]}"]  # fmt: skip
    if pairs.weights is None:
        return made, [*notes, "weights: left out, the model weighs no texts"]
    made["pair_weights.png"] = plots.draw_weights(pairs, f"Weights of the fusion ({about})")
    made["pair_weights.csv"] = weight_table(pairs).encode()
    spread = ", ".join(
        f"{part} {w.mean():.2f} (+- {w.std():.2f})" for part, w in zip(PARTS, pairs.weights.T, strict=True)
    )
    return made, [*notes, f"weights: {spread}"]


def untrained(net: PairModel, seed: int) -> PairModel:
    """Return a net of the same rows with weights by chance."""
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        return PairModel(net.yaml, nc=len(net.names), verbose=False)


def vector_table(panels: list[tuple[str, Pairs, np.ndarray]]) -> str:
    """Return the points as comma-separated values."""
    rows = (
        [head, file.name, pairs.names[c], kind, f"{x:.4f}", f"{y:.4f}"]
        for head, pairs, points in panels
        for (kind, _), own in zip(plots.KINDS, points, strict=True)
        for file, c, (x, y) in zip(pairs.files, pairs.target, own, strict=True)
    )
    return csv_text([["net", "image", "class", "kind", "x", "y"], *rows])


def weight_table(pairs: Pairs) -> str:
    """Return the weights as comma-separated values, mean and spread of each class."""
    assert pairs.weights is not None
    rows = []
    for c, name in enumerate(pairs.names):
        own = pairs.weights[pairs.target == c]
        for i, part in enumerate(PARTS if len(own) else ()):
            rows.append([name, len(own), part, f"{own[:, i].mean():.5f}", f"{own[:, i].std():.5f}"])
    return csv_text([["class", "images", "part", "mean", "spread"], *rows])
