"""A pair: an image and its known-good picture as one array; what the runtime without torch needs of it too."""

from __future__ import annotations

from typing import Any

from ultra_dsmoe.runtime.pairing import COLOURS, PAIR, blank_like, halves, stacked

__all__ = ["COLOURS", "PAIR", "blank_like", "halves", "images_alone", "stacked"]


def images_alone(batch: dict[str, Any], channels: int) -> dict[str, Any]:
    """Return one of the host's batches without references, for plots: two channels it would show as red and green.

    Args:
        batch: With pairs (B, 2C, H, W) under ``img``.
        channels: Of an image, C.
    """
    return {**batch, "img": batch["img"][:, :channels]}
