"""What crops show: boxes with a margin, and places of the background that look most like a defect."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ultra_dsmoe.data.labelled import Piece

LEAST = 4  # pixels of a margin: a share of a box of few pixels would be none
PLACES, SIZES = 64, 4  # that are looked at for one crop of the background, and sizes that are tried

Box = tuple[int, int, int, int]


def region(box: Sequence[float], size: tuple[int, int], margin: float) -> Box:
    """Return what a crop shows, in whole pixels: a box and its margin, cut at the edges of the image.

    Args:
        box: Corners in pixels.
        size: Height and width of the image.
        margin: Share of the longer side of the box, though at least `LEAST` pixels; 0 for none.
    """
    x0, y0, x1, y1 = box
    around = max(margin * max(x1 - x0, y1 - y0), LEAST) if margin else 0.0
    left, top = (min(max(round(low - around), 0), end - 1) for low, end in ((x0, size[1]), (y0, size[0])))
    right, bottom = max(min(round(x1 + around), size[1]), left + 1), max(min(round(y1 + around), size[0]), top + 1)
    return left, top, right, bottom


def record(box: Box, size: tuple[int, int]) -> dict[str, float]:
    """Return the numbers of a box: sides in pixels, width over height, share of the image's area, centre in shares.

    Args:
        box: Corners in pixels.
        size: Height and width of the image.
    """
    (x0, y0, x1, y1), (height, width) = box, size
    numbers = {
        "width_px": x1 - x0,
        "height_px": y1 - y0,
        "aspect": (x1 - x0) / (y1 - y0),
        "area_share": (x1 - x0) * (y1 - y0) / (width * height),
        "center_x": (x0 + x1) / 2 / width,
        "center_y": (y0 + y1) / 2 / height,
    }
    return {name: round(number, 6) for name, number in numbers.items()}


def find_background(
    piece: Piece, boxes: Sequence[Box], sizes: np.ndarray, count: int, margin: float, rng: np.random.Generator
) -> list[Box]:
    """Return places of an image whose crops show no box, each the one of most contrast among some drawn at random.

    Args:
        piece: The image.
        boxes: That the crops must not show.
        sizes: Widths and heights of true boxes, of which one is drawn for each place, (N, 2).
        count: How many places; fewer where there is no room.
        margin: Of the crops.
        rng: What draws.
    """
    if not count or not len(sizes):
        return []
    found: list[Box] = []
    (height, width), taken, sums = piece.size, list(boxes), _sums(piece)
    for w, h in np.maximum(np.rint(sizes[rng.integers(0, len(sizes), SIZES * count)]), 1).astype(int):
        if len(found) == count:
            break
        if w > width or h > height:
            continue
        corners = np.stack([rng.integers(0, width - w + 1, PLACES), rng.integers(0, height - h + 1, PLACES)], 1)
        places = np.hstack([corners, corners + np.array([w, h])])
        shown = np.array([region(place, piece.size, margin) for place in places.tolist()])
        free = places[~_overlaps(shown, np.array(taken, int).reshape(-1, 4)).any(1)]
        if len(free):
            x0, y0, x1, y1 = free[_variance(sums, free).argmax()].tolist()
            found.append((x0, y0, x1, y1))
            taken.append(region(found[-1], piece.size, margin))
    return found


def _sums(piece: Piece) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of gray values, and of their squares, above and left of each pixel."""
    sums, squares = cv2.integral2(cv2.cvtColor(piece.pixels, cv2.COLOR_BGR2GRAY), sqdepth=cv2.CV_64F)
    return sums, squares


def _variance(sums: tuple[np.ndarray, np.ndarray], boxes: np.ndarray) -> np.ndarray:
    """Return the variance of the gray values within boxes, (N,)."""
    x0, y0, x1, y1 = boxes.T
    total, squares = (s[y1, x1].astype(float) - s[y0, x1] - s[y1, x0] + s[y0, x0] for s in sums)
    area = (x1 - x0) * (y1 - y0)
    return squares / area - (total / area) ** 2


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return which boxes have pixels in common, (N, M) of bool."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    return (low < high).all(2)
