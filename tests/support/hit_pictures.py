"""Small pictures of scattered dots with their records, for the tests of texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SIDE = 96
PINK_BGR = (180, 105, 255)


def draw(points: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Return an RGB picture of points in units of 1/24 of the side around its centre, y up, inside a black circle."""
    image = np.full((side, side, 3), 255, np.uint8)
    cv2.circle(image, (side // 2, side // 2), side // 2 - 2, (0, 0, 0), 1)
    for x, y in points * side / 24:
        column, line = round(side / 2 + x), round(side / 2 - y)
        if 0 <= column < side and 0 <= line < side:
            image[line, column] = PINK_BGR[::-1]
    return image


def record_of(points: np.ndarray) -> dict[str, float]:
    """Return the record of points [N, 2]."""
    covariance, radii = np.cov(points.T), np.hypot(*points.T)
    rings = {f"r{k}_{k + 2}": float(((radii >= k) & (radii < k + 2)).sum()) for k in range(0, 14, 2)}
    return {
        "mu_x": float(points[:, 0].mean()),
        "mu_y": float(points[:, 1].mean()),
        "sd_x": float(covariance[0, 0] ** 0.5),
        "sd_y": float(covariance[1, 1] ** 0.5),
        "cov_xy": float(covariance[0, 1]),
        "hits": float(len(points)),
        **rings,
    }


def scatter(
    seed: int, mean: tuple[float, float] = (0, 0), sd: tuple[float, float] = (2, 2), n: int = 200
) -> np.ndarray:
    """Return normal points [n, 2]."""
    return np.random.default_rng(seed).normal(mean, sd, (n, 2))


def write_image(path: Path, image: np.ndarray, sidecar: dict[str, Any] | None = None) -> Path:
    """Write an RGB picture, and what stands beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if sidecar is not None:
        path.with_suffix(".json").write_text(json.dumps(sidecar), encoding="utf-8")
    return path


def make_set(root: Path, train: int = 6, val: int = 3, *, records: bool = True) -> Path:
    """Write a classification set of two classes, ``left`` and ``wide``, and return its root."""
    kinds = {"left": ((-4.0, 1.0), (1.5, 1.5)), "wide": ((1.0, 0.0), (4.0, 2.5))}
    for s, (split, count) in enumerate({"train": train, "val": val}.items()):
        for k, (kind, (mean, sd)) in enumerate(kinds.items()):
            for i in range(count):
                seed = 1000 * s + 100 * k + i
                shift = np.random.default_rng(seed).normal(0, 1, 2)
                points = scatter(seed, (mean[0] + shift[0], mean[1] + shift[1]), sd, 100 + 10 * i)
                beside = {"record": record_of(points)} if records else None
                write_image(root / split / kind / f"{split}{k}{i}.png", draw(points), beside)
    return root


def images_of(root: Path, split: str) -> list[Path]:
    """Return the images of a split, sorted by name."""
    return sorted((root / split).glob("*/*.png"), key=lambda path: path.name)
