"""What a classification set gives away without any training of a net: scikit-learn on numbers of its images.

They stand beside nets that texts teach: a net that is no better than its texts' numbers alone has learned nothing from
the picture, and one that is no better than frozen features has learned nothing at all. Fitted on the training half
alone, like the nets.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from ultralytics.data.augment import classify_transforms
from ultralytics.data.utils import IMG_FORMATS

from ultra_dsmoe.causes import reading
from ultra_dsmoe.errors import ConfigError, DataError, WeightsError
from ultra_dsmoe.evaluate.class_stats import ClassStats
from ultra_dsmoe.evaluate.evaluation import quiet
from ultra_dsmoe.model.pair_text import PairText
from ultra_dsmoe.text.providers.measures import measure
from ultra_dsmoe.text.sidecar_files import Pictures
from ultra_dsmoe.text.sidecars import TextSource

INPUTS = ("record", "measures", "texts", "features")
FITS = ("qda", "logistic", "forest")
BY_CHANCE = ("forest",)  # what a seed changes
OPTIONS = ("imgsz", "seed", "pretrained", "dsmoe_text", "dsmoe_provider")
SHRINKAGE = 0.05  # of each class's covariance towards the identity: counts of a record add up, so it has no inverse
TREES, STEPS = 500, 5000  # of a forest; most of a logistic regression (our choice)
BATCH = 32

Halves = tuple[list[Path], list[Path]]  # images to fit on, and to test on


def evaluate(
    root: Path,
    split: str,
    inputs: Sequence[str],
    fit: str,
    *,
    imgsz: int = 224,
    seed: int = 0,
    pretrained: str = "",
    dsmoe_text: str = "auto",
    dsmoe_provider: str = "rules",
) -> ClassStats:
    """Fit a classifier on numbers of the training images and let it name the classes of a split.

    Args:
        root: Folder of the set.
        split: ``val`` or ``test``.
        inputs: What it sees, out of `INPUTS`, side by side: the record's numbers, what is measured of the picture, the
            vectors of both texts, the frozen features of a pretrained net.
        fit: One of `FITS`.
        imgsz: Size of the images for the features.
        seed: Of a forest.
        pretrained: Checkpoint for the features, a detector or classifier of the host's; may name a variable of the
            environment.
        dsmoe_text: Encoder of the texts.
        dsmoe_provider: Says what the sidecars lack.

    Raises:
        DSMoEError: If numbers or weights are missing, or scikit-learn is not installed.
    """
    (train, target, names), (test, true, same) = images_of(root, "train"), images_of(root, split)
    if names != same:
        raise DataError(str(root), f"the same classes in train and {split}", f"{names} and {same}")
    say: dict[str, Callable[[list[Path], list[Path]], np.ndarray]] = {
        "record": partial(_records, provider=dsmoe_provider),
        "measures": _measures,
        "texts": partial(_texts, provider=dsmoe_provider, encoder=dsmoe_text),
        "features": partial(_features, weights=os.path.expandvars(pretrained), imgsz=imgsz),
    }
    numbers = standardised(np.concatenate([say[name](train, test) for name in inputs], axis=1), len(train))
    model = classifier(fit, seed).fit(numbers[: len(train)], target)
    probabilities = np.zeros((len(test), len(names)))  # a class without a training image keeps 0
    probabilities[:, model.classes_] = model.predict_proba(numbers[len(train) :])
    return ClassStats([str(path) for path in test], names, true, probabilities.argmax(1), probabilities)


def images_of(root: Path, split: str) -> tuple[list[Path], np.ndarray, list[str]]:
    """Return images, their classes and the classes' names, in the order of the host's loader.

    Raises:
        DataError: If there are none.
    """
    from torchvision.datasets import ImageFolder  # late, as in the host

    with reading(str(root / split), "a folder per class with images"):
        kinds = {"is_valid_file": lambda x: x.rpartition(".")[-1].lower() in IMG_FORMATS, "allow_empty": True}
        found = ImageFolder(str(root / split), **kinds)
    if not found.samples:
        raise DataError(str(root / split), "a folder per class with images", "no image")
    return [Path(path) for path, _ in found.samples], np.array(found.targets), list(found.classes)


def classifier(fit: str, seed: int) -> Any:
    """Return a classifier that learns from standardised numbers.

    Raises:
        ConfigError: If scikit-learn is not installed.
    """
    try:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import LogisticRegression
    except ImportError as e:
        raise ConfigError("scikit-learn", "the package: pip install 'ultra-dsmoe[data]'", "none") from e
    made = {
        "qda": Quadratic,
        "logistic": lambda: LogisticRegression(max_iter=STEPS),
        "forest": lambda: RandomForestClassifier(TREES, random_state=seed),
    }
    return made[fit]()


def standardised(numbers: np.ndarray, train: int) -> np.ndarray:
    """Return numbers (I, N) by mean and deviation of the first ``train`` images; what an image lacks is at the mean."""
    some = ~np.isnan(numbers[:train]).all(0)  # of a number that no training image has, nothing can be learned
    known = numbers[:, some]
    mean, deviation = np.nanmean(known[:train], 0), np.nanstd(known[:train], 0)
    return np.nan_to_num((known - mean) / np.where(deviation > 0, deviation, 1))


class Quadratic:
    """Quadratic discriminant: a normal distribution per class, as often as the class; small classes will do."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> Quadratic:
        """Learn from standardised numbers (I, N) and classes (I,)."""
        self.classes_ = np.unique(y)
        self._means = [x[y == c].mean(0) for c in self.classes_]
        own = [(x[y == c] - mean) for c, mean in zip(self.classes_, self._means, strict=True)]
        unit = SHRINKAGE * np.eye(x.shape[1])
        self._covs = [(1 - SHRINKAGE) * d.T @ d / max(len(d) - 1, 1) + unit for d in own]
        self._shares = [len(d) / len(y) for d in own]
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """Return the probabilities of the classes, (I, K)."""
        logs = []
        for mean, cov, share in zip(self._means, self._covs, self._shares, strict=True):
            away = x - mean
            distance = (away * np.linalg.solve(cov, away.T).T).sum(1)
            logs.append(np.log(share) - (distance + np.linalg.slogdet(cov)[1]) / 2)
        table = np.stack(logs, axis=1)
        likely = np.exp(table - table.max(1, keepdims=True))
        return likely / likely.sum(1, keepdims=True)


def _records(train: list[Path], test: list[Path], provider: str) -> np.ndarray:
    """Return the numbers that all records have, (I, N)."""
    source = TextSource.named(provider)
    source.fit(train)
    records = [text.record or {} for text in source.read([*train, *test])]
    keys = sorted(set(records[0]).intersection(*records))
    if not keys:
        raise DataError("records", "a number that every image has", "none")
    return np.array([[record[key] for key in keys] for record in records])


def _measures(train: list[Path], test: list[Path]) -> np.ndarray:
    """Return what is measured of each picture, (I, N); nan where a picture has nothing to measure."""
    found = [measure(picture) for picture in Pictures([*train, *test])]
    keys = sorted({key for each in found[: len(train)] for key in each})
    return np.array([[each.get(key, np.nan) for key in keys] for each in found])


def _texts(train: list[Path], test: list[Path], provider: str, encoder: str) -> np.ndarray:
    """Return the vectors of both texts, (I, N)."""
    return PairText.fit(train, provider, encoder).encode([*train, *test]).numbers


@torch.no_grad()
def _features(train: list[Path], test: list[Path], weights: str, imgsz: int) -> np.ndarray:
    """Return the mean over the last map of a pretrained net's backbone, (I, C)."""
    rows, transforms = backbone(weights), classify_transforms(size=imgsz)
    images, found = [*train, *test], []
    for start in range(0, len(images), BATCH):
        pictures = [transforms(Image.open(path).convert("RGB")) for path in images[start : start + BATCH]]
        found.append(rows(torch.stack(pictures)).mean((2, 3)).numpy())
    return np.concatenate(found)


def backbone(weights: str) -> torch.nn.Sequential:
    """Return the backbone of a checkpoint of the host's.

    Raises:
        WeightsError: If it cannot be read, or its backbone is no chain of rows.
    """
    from ultralytics import YOLO

    with quiet(), reading("pretrained", "a readable checkpoint", WeightsError, weights):
        net: Any = YOLO(weights).model
    rows = net.float().eval().model[: len(net.yaml["backbone"])]
    chain = [row for row in rows if not hasattr(row, "linear")]  # a classifier's last row stands in its backbone
    if not chain or any(row.f != -1 for row in chain):
        raise WeightsError("pretrained", "a net whose backbone is a chain, as YOLO's", weights)
    return torch.nn.Sequential(*chain)
