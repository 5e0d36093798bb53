"""More training images for a set with records of hits: new images drawn from what the records of each class say.

Source: [PFA] Eq. 9, 10 ("task-specific augmentation"). Turning or recolouring a picture would part it from
its record and its texts; here both are new and belong together. Deviation: the paper draws from the means of a class
alone. Then images of a class are all alike, and nets learn a class too narrow; by default ours differ from each other
as the training images do. Statistics come from the training half only.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ultra_dsmoe import checks
from ultra_dsmoe.data.hits import record
from ultra_dsmoe.data.hits.demo import write_sample
from ultra_dsmoe.data.hits.distribution import FEWEST, RADIUS, Normal, draw_points
from ultra_dsmoe.errors import DataError
from ultra_dsmoe.files import require_unused, whole_folder

SEED = 42
SPREADS = ("between", "none")
PREFIX = "tda_"  # of the new images' names
PROOF = "tda.json"
NEEDED = ("mu_x", "mu_y", "sd_x", "sd_y", "hits")
_LEAST_INSIDE = 0.5  # of the hits of an image; fewer, and its records are in another unit than the circle


@dataclass(frozen=True)
class Sample:
    """A training image with its record."""

    image: Path
    kind: str
    record: dict[str, float]


@dataclass(frozen=True)
class Statistics:
    """What the images of a class have in common, and how they differ.

    Attributes:
        mean: Of mu_x, mu_y, the logarithms of both variances and Fisher's transform of the correlation's size, (5,).
        root: A root of their covariance between images, (5, 5); zero where images shall not differ.
        positive: Share of images with a correlation above 0.
    """

    mean: np.ndarray
    root: np.ndarray
    positive: float

    @classmethod
    def of(cls, records: Sequence[dict[str, float]], spread: str = SPREADS[0]) -> Statistics:
        """Return those of some records.

        Args:
            records: Of one class, each with `NEEDED` and perhaps cov_xy; two at least, for a spread between them.
            spread: "between", or "none" for images that do not differ but by the draw of their hits.
        """
        mu, sd = (np.array([[r[f"{m}_x"], r[f"{m}_y"]] for r in records], float) for m in ("mu", "sd"))
        rho = np.array([r.get("cov_xy", 0.0) for r in records]) / sd.prod(1)
        values = np.column_stack([mu, 2 * np.log(sd), np.arctanh(np.abs(rho))])
        root = np.zeros((5, 5))
        if spread == SPREADS[0]:
            hits = np.array([r["hits"] for r in records], float)
            sizes, axes = np.linalg.eigh(np.cov(values.T) - _by_chance(sd, rho, hits))
            root = axes * np.sqrt(sizes.clip(0)) @ axes.T  # the symmetric one: axes may have either sign
        return cls(values.mean(0), root, float((rho > 0).mean()))

    def draw(self, rng: np.random.Generator) -> Normal:
        """Draw the distribution of the hits of one new image: [PFA] Eq. 9."""
        *mu, log_var_x, log_var_y, size = self.mean + self.root @ rng.normal(size=5)
        sign = 1 if rng.random() < self.positive else -1
        return Normal.of(np.array(mu), np.exp([log_var_x, log_var_y]), sign * math.tanh(size))


def _by_chance(sd: np.ndarray, rho: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Return the covariance that records have where their hits come from one distribution, (5, 5).

    Finite numbers of hits make them differ. New hits are drawn from the statistics, which brings this part by itself:
    left in, it would count twice.
    """
    found = np.zeros((len(hits), 5, 5))
    found[:, [0, 1], [0, 1]] = sd**2
    found[:, [0, 1], [1, 0]] = (rho * sd.prod(1))[:, None]
    found[:, [2, 3], [2, 3]] = 2
    found[:, [2, 3], [3, 2]] = 2 * rho[:, None] ** 2
    found[:, 4, 4] = 1
    return (found / hits[:, None, None]).mean(0)


def augment(
    data: str | Path, root: str | Path, add: int | None = None, seed: int = SEED, spread: str = SPREADS[0]
) -> Path:
    """Write a copy of a classification set with new images and records among the training ones.

    Each new image belongs to a real one: it has its class, its number of hits, its size, and what its record has that
    hits do not tell.

    Args:
        data: Folder of the set, with ``train/CLASS/IMAGE`` and a record beside each of these images.
        root: Folder to make.
        add: How many images; one for each training image where left out.
        seed: Of what is drawn.
        spread: "between" or "none", see `Statistics.of`.

    Returns:
        The folder.

    Raises:
        DSMoEError: If records are missing or cannot be used, or the folder is in use.
    """
    data, root = Path(data).resolve(), Path(root).resolve()
    if data in (root, *root.parents):
        raise DataError("out", f"a folder outside of {data}", str(root))
    require_unused(root)
    checks.one_of("spread", spread, SPREADS, DataError)
    if add is not None:
        checks.whole("add", add, kind=DataError)
    samples = _samples(data)
    statistics = _statistics(samples, spread)
    add = len(samples) if add is None else add
    order = np.random.default_rng(seed).permutation(len(samples))
    with whole_folder(root, PROOF) as partial:
        _copy(data, partial)
        for i in range(add):
            real = samples[order[i % len(samples)]]
            points = _draw(real, statistics[real.kind], np.random.default_rng([seed, i]))
            image = partial / "train" / real.kind / f"{PREFIX}{i:05d}.png"
            write_sample(image, points, _side(real.image), {**real.record, **record.measure(points, real.record)})
        how = {"images": add, "seed": seed, "spread": spread}
        (partial / PROOF).write_text(json.dumps(how) + "\n", encoding="utf-8")
    return root


def _samples(data: Path) -> list[Sample]:
    """Return the training images with their records, in the order of their names."""
    from ultralytics.data.utils import IMG_FORMATS  # late: the other commands about data need no host

    train = data / "train"
    classes = sorted(f for f in train.iterdir() if f.is_dir()) if train.is_dir() else []
    if not classes:
        expected = "a classification set with train/CLASS/IMAGE"
        raise DataError(str(data), expected, "no class in train" if train.is_dir() else "no folder 'train'")
    samples = []
    for folder in classes:
        images = sorted(f for f in folder.rglob("*") if f.suffix[1:].lower() in IMG_FORMATS)
        if given := [f.name for f in images if f.name.startswith(PREFIX)]:
            raise DataError(str(data), f"a set without images named {PREFIX}*, for these are drawn", given[0])
        samples += [Sample(image, folder.name, record.read(image)) for image in images]
        if not images:
            raise DataError(f"class {folder.name}", "training images", "none")
    has_covariance = any("cov_xy" in s.record for s in samples)
    for sample in samples:
        _check(sample, (*NEEDED, "cov_xy") if has_covariance else NEEDED)
    return samples


def _check(sample: Sample, needed: Sequence[str]) -> None:
    """Refuse a record from which nothing can be drawn."""
    values, name = sample.record, record.sidecar(sample.image)
    for key in needed:
        if key not in values:
            raise DataError(str(name), f"a record with {', '.join(needed)}", f"no {key}")
    for key in ("sd_x", "sd_y"):
        if values[key] <= 0:
            raise DataError(f"{name} {key}", "a number above 0", values[key])
    checks.whole(f"{name} hits", values["hits"], FEWEST, kind=DataError)
    if abs(values.get("cov_xy", 0)) >= (most := values["sd_x"] * values["sd_y"]):
        raise DataError(f"{name} cov_xy", f"less than sd_x sd_y, {most:g}, of either sign", values["cov_xy"])


def _statistics(samples: Sequence[Sample], spread: str) -> dict[str, Statistics]:
    """Return the statistics of each class."""
    by_class: dict[str, list[dict[str, float]]] = {}
    for sample in samples:
        by_class.setdefault(sample.kind, []).append(sample.record)
    for kind, records in by_class.items():
        if spread == SPREADS[0] and len(records) < 2:
            expected = "at least 2 training images, for a spread between them (or spread=none)"
            raise DataError(f"class {kind}", expected, len(records))
    return {kind: Statistics.of(records, spread) for kind, records in by_class.items()}


def _copy(data: Path, target: Path) -> None:
    """Copy a set as it is, but for the lists that the host keeps of its files."""
    try:
        shutil.copytree(data, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.cache"))
    except shutil.Error as error:  # of one or more files; each has its own reason
        file, _, reason = error.args[0][0]
        raise DataError(str(file), "a file that can be copied", str(reason)) from error


def _draw(real: Sample, statistics: Statistics, rng: np.random.Generator) -> np.ndarray:
    """Draw the hits of a new image."""
    count = int(real.record["hits"])
    points = draw_points(statistics.draw(rng), count, rng)
    if len(points) < max(FEWEST, _LEAST_INSIDE * count):
        expected = f"records in a unit of which the circle's radius has {RADIUS:g}"
        raise DataError(f"class {real.kind}", expected, f"{len(points)} of {count} drawn hits inside it")
    return points


def _side(image: Path) -> int:
    """Return the shorter side of an image in pixels."""
    from ultralytics.utils.patches import imread  # reads what the host trains with

    pixels = imread(str(image))
    if pixels is None:
        raise DataError(str(image), "a readable image", "none")
    return min(pixels.shape[:2])
