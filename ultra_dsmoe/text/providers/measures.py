"""Measured quantities of a picture with something on a ground: dots on white, a defect on steel. No label is needed.

The ground is the median colour. What stands out from it by Otsu's threshold is the *foreground*; where a picture has
coloured marks on an uncoloured ground, only what is coloured stands out, so that frames and axes do not count.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from ultra_dsmoe.constants import LETTERBOX_GRAY

LONGEST = 256  # pixels of the longer side that is measured; larger pictures are shrunk (our choice)
LEAST_CONTRAST = 12  # grey levels of 255 below which nothing stands out: noise of a camera (our choice)
COLOURED = 48  # difference of a pixel's channels from which it counts as coloured (our choice)
COLOURED_SHARE = 99.9  # percentile of the pixels at which it is read: 50 pixels of 224 x 224 (our choice)
FAR = 2.0  # spreads from the centroid beyond which foreground lies apart; 13.5 % of a round normal cloud does
CORE = 0.25  # of the side: radius of what counts as the middle of the picture (our choice)


def measure(image: np.ndarray) -> dict[str, float]:
    """Measure a picture.

    Args:
        image: RGB uint8 [H, W, 3].

    Returns:
        By name, always:

        - ``width``, ``height`` (pixels, without the bars of a letterbox), ``aspect`` (log2 of width over height)
        - ``brightness``: mean grey, % of white
        - ``contrast``: standard deviation of grey, % of white
        - ``skew``: third standardised moment of grey; below 0 the picture has dark specks, above 0 bright ones
        - ``roughness``: mean absolute Laplacian of grey, % of white
        - ``coherence``: 0 (edges in all directions) to 1 (all in one); ``grain``: direction that the lines then run
          in, degrees from the x axis, counter-clockwise, 0 to 180
        - ``share``: foreground, % of the pixels

        and where there is a foreground:

        - ``polarity``: mean grey of the foreground less that of the ground, % of white
        - ``offset_x``, ``offset_y``: its centroid from the centre, right and up, % of half the longer side; ``offset``
          their length
        - ``spread``: root mean square of its standard deviations in x and y, % of half the longer side
        - ``stretch``: log of its variance in x over that in y; ``tilt``: 2 atanh of its correlation of x and y (up);
          of independent points either has the standard error 2 / sqrt(points)
        - ``parts``: connected pieces; ``largest``: the largest one's share of the foreground, %
        - ``part_size``: square root of the pieces' median area, % of a side
        - ``apart``: foreground further than two spreads from the centroid, %; ``core``: foreground within a quarter of
          the longer side around the centre, %
        - ``points``: for the standard errors, the pieces, or the pixels where one piece holds most of the foreground
    """
    image = without_bars(image)
    height, width = image.shape[:2]
    scale = LONGEST / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    mask = foreground(image)
    found = {"width": float(width), "height": float(height), "aspect": math.log2(width / height)}
    found |= _surface(grey.astype(np.float32))
    found["share"] = 100 * float(mask.mean())
    if mask.any():
        ground = float(np.median(grey))
        found["polarity"] = (float(grey[mask].mean()) - ground) / 2.55
        found |= _cloud(mask)
        found |= _pieces(mask)
        found["points"] = float(mask.sum()) if found["largest"] > 50 else found["parts"]
    return found


def foreground(image: np.ndarray) -> np.ndarray:
    """Return what stands out from the ground of an RGB uint8 image, bool [H, W]."""
    chroma = _joined(np.maximum, image) - _joined(np.minimum, image)
    usual = int(np.median(chroma))
    if np.percentile(chroma, COLOURED_SHARE) > usual + COLOURED:
        away = np.abs(chroma.astype(np.int16) - usual).astype(np.uint8)
    else:
        ground = np.median(image.reshape(-1, 3), axis=0).astype(np.int16)
        away = _joined(np.maximum, np.abs(image.astype(np.int16) - ground)).astype(np.uint8)
    limit, _ = cv2.threshold(away, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return away > max(limit, LEAST_CONTRAST)


def without_bars(image: np.ndarray) -> np.ndarray:
    """Return an RGB uint8 image without the bars that a letterbox puts around it; all of it where there is no more."""
    picture = _joined(np.logical_or, image != LETTERBOX_GRAY)
    rows, columns = np.flatnonzero(picture.any(axis=1)), np.flatnonzero(picture.any(axis=0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else image


def _joined(join: np.ufunc, image: np.ndarray) -> np.ndarray:
    """Return the channels of an image [H, W, 3] joined pairwise: many times faster than a reduction over three."""
    return join(join(image[..., 0], image[..., 1]), image[..., 2])


def _surface(grey: np.ndarray) -> dict[str, float]:
    """Measure grey levels and edges, float32 [H, W] of 0 to 255."""
    mean, sd = float(grey.mean()), float(grey.std())
    skew = float((((grey - mean) / sd) ** 3).mean()) if sd > 0 else 0.0
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    xx, yy, xy = (float((a * b).mean()) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    coherence = math.hypot(xx - yy, 2 * xy) / (xx + yy) if xx + yy > 0 else 0.0
    across = 0.5 * math.atan2(-2 * xy, xx - yy)  # of the gradients, with y up; lines run at right angles to them
    return {
        "brightness": mean / 2.55,
        "contrast": sd / 2.55,
        "skew": skew,
        "roughness": float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean()) / 2.55,
        "coherence": coherence,
        "grain": (math.degrees(across) + 90) % 180,
    }


def _cloud(mask: np.ndarray) -> dict[str, float]:
    """Measure place, spread and shape of a foreground, bool [H, W]."""
    half_y, half_x = mask.shape[0] / 2, mask.shape[1] / 2
    rows, columns = np.nonzero(mask)
    half = max(half_x, half_y)  # one unit for both axes, so that shapes keep their proportions
    x, y = (columns + 0.5 - half_x) / half, (half_y - rows - 0.5) / half
    mean_x, mean_y = float(x.mean()), float(y.mean())
    pixel = (1 / half) ** 2 / 12  # a pixel is a square, not a point: without its variance a thin line would have none
    var_x, var_y = float(x.var()) + pixel, float(y.var()) + pixel
    spread = math.sqrt((var_x + var_y) / 2)
    correlation = float(((x - mean_x) * (y - mean_y)).mean()) / math.sqrt(var_x * var_y)
    return {
        "offset_x": 100 * mean_x,
        "offset_y": 100 * mean_y,
        "offset": 100 * math.hypot(mean_x, mean_y),
        "spread": 100 * spread,
        "stretch": math.log(var_x / var_y),
        "tilt": 2 * math.atanh(max(-0.999, min(0.999, correlation))),
        "apart": 100 * float((np.hypot(x - mean_x, y - mean_y) > FAR * spread).mean()),
        "core": 100 * float((np.hypot(x, y) < 2 * CORE).mean()),
    }


def _pieces(mask: np.ndarray) -> dict[str, float]:
    """Measure the connected pieces of a foreground, bool [H, W]."""
    _, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    return {
        "parts": float(len(areas)),
        "largest": 100 * float(areas.max() / areas.sum()),
        "part_size": 100 * math.sqrt(float(np.median(areas)) / mask.size),
    }
