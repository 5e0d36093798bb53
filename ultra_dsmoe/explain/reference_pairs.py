"""Pairs of images and known-good pictures as a data set has them, before and after registration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ultra_dsmoe.data.labelled import class_names, read_piece, split_labels
from ultra_dsmoe.data.reference.references import ABSENT, Loaded, References
from ultra_dsmoe.data.reference.registration import MISMATCH_LIMIT
from ultra_dsmoe.data.reference.spec import ReferenceSpec
from ultra_dsmoe.errors import DataError

SHOWN = 12  # pairs in a picture


class Shown(NamedTuple):
    """What is drawn of a pair.

    Attributes:
        name: Of the image.
        image: (H, W, 3), RGB.
        boxes_xyxy_px: Corners of its labels, (N, 4).
        classes: Name of each box.
        before: The reference as it is.
        after: The reference as it is laid on the image.
    """

    name: str
    image: np.ndarray
    boxes_xyxy_px: np.ndarray
    classes: list[str]
    before: Loaded
    after: Loaded


def pairs_of(content: dict[str, Any], split: str, spec: ReferenceSpec, align: str, count: int = SHOWN) -> list[Shown]:
    """Return some pairs of a split, spread over all of it.

    Args:
        content: What the host made of the data YAML.
        split: ``train``, ``val`` or ``test``.
        spec: Where the references are. An image without one is shown so.
        align: How they are laid on the images.
        count: How many pairs, fewer where there are fewer images.

    Raises:
        DataError: If there are no images, or a reference cannot be used.
    """
    labels, names = split_labels(content, split), class_names(content)
    if not labels:
        raise DataError("split", "one with images", split)
    chosen = [labels[i] for i in np.unique(np.linspace(0, len(labels) - 1, count).round().astype(int))]
    spec = replace(spec, missing="blank")
    before, after = (References(replace(spec, align=how), 3) for how in ("none", align))
    before.require([label["im_file"] for label in labels])
    shown = []
    for label in chosen:
        file, piece = Path(label["im_file"]), read_piece(label)
        kinds = [names[kind] for kind in piece.classes]
        loaded = (one.load(file, piece.pixels) for one in (before, after))
        shown.append(Shown(file.name, piece.pixels[..., ::-1], piece.boxes_xyxy_px, kinds, *loaded))
    return shown


def notes(shown: Sequence[Shown]) -> list[str]:
    """Return a line for each pair in which something is wrong, or one that says that nothing is."""
    lines = []
    for pair in shown:
        if pair.before.state == ABSENT:
            lines.append(f"{pair.name}: no reference")
        elif pair.after.mismatch is not None and pair.after.mismatch > MISMATCH_LIMIT:
            score = f"mismatch {pair.after.mismatch:.2f}, above {MISMATCH_LIMIT:g}"
            lines.append(f"{pair.name}: the reference seems to show another product ({score})")
        elif pair.after.state != pair.before.state:
            quality = f"quality {pair.after.quality:.2f}"
            lines.append(f"{pair.name}: the reference cannot be laid on the image ({quality}), it counts as missing")
    return lines or [f"all {len(shown)} pairs show the same product"]
