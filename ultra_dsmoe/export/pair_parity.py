"""The gate behind every export of a classifier of ours: the file must give the probabilities that the net gives."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from ultralytics.data.augment import classify_transforms
from ultralytics.data.utils import IMG_FORMATS
from ultralytics.utils import LOGGER, SETTINGS

from ultra_dsmoe.data.pairs import with_plane
from ultra_dsmoe.errors import ConfigError, DSMoEError
from ultra_dsmoe.export.images import drawn_images, spread
from ultra_dsmoe.export.parity_check import IMAGES
from ultra_dsmoe.export.parity_verdict import OFF, ParityError, runnable
from ultra_dsmoe.export.precision import bits_of
from ultra_dsmoe.export.runners import exported_runner, torch_runner
from ultra_dsmoe.export.static_mode import size_of
from ultra_dsmoe.logs import at_level
from ultra_dsmoe.model.classifier import PairModel
from ultra_dsmoe.model.pair_state import texts_of

# How far probabilities may lie apart, by bits (our choice), and macro F1 on a split. Of integers macro F1 decides.
PROBABILITY: dict[int, float | None] = {32: 1e-4, 16: 2e-2, 8: None}
F1_DROP = {32: 1e-3, 16: 5e-3, 8: 1e-2}


@dataclass(frozen=True)
class Difference:
    """How far an exported classifier is from its net.

    Attributes:
        images: How many images were compared.
        probability: Largest difference of a probability.
        exchanged: Pairs of classes (k, j) where the file's k is more like the net's j than like its k.
        finite: Whether the file gave numbers only.
    """

    images: int
    probability: float
    exchanged: tuple[tuple[int, int], ...]
    finite: bool


def difference(net: np.ndarray, file: np.ndarray) -> Difference:
    """Compare probabilities (M, K) of a net and of a file.

    A class counts as exchanged only where the other is nearer by more than what separates the net's own columns in the
    last digits: columns that are equal cannot be told apart.
    """
    if net.shape != file.shape:
        raise ParityError("exported file", f"probabilities {net.shape}", file.shape)
    finite = bool(np.isfinite(file).all())
    distance = np.abs(file[:, :, None] - net[:, None, :]).max(0)  # [k of the file, j of the net]
    nearest = distance.argmin(1)
    own = np.diag(distance)
    swapped = [(k, int(j)) for k, j in enumerate(nearest) if j != k and distance[k, j] < own[k] / 2 and own[k] > 1e-6]
    return Difference(len(net), float(own.max()), tuple(swapped), finite)


class PairParity:
    """The gate of one export; what it needs is checked before the export begins."""

    def __init__(self, model: Any, net: PairModel, wanted: bool | str, kwargs: dict[str, Any]) -> None:
        """Prepare the gate.

        Args:
            model: ``YOLO`` object.
            net: Its network.
            wanted: The checked key: False for no gate, True, or the split whose macro F1 is compared too.
            kwargs: The host's arguments of the export.

        Raises:
            ConfigError: If the precision is unknown or not to be had, or a split is asked for without a data set.
        """
        self.model, self.net, self.wanted, self.kwargs = model, net, wanted, dict(kwargs)
        self.bits, self.size = bits_of(kwargs), size_of(model, net, kwargs)
        if self.bits == 8 and net.wants_text:
            expected = "16 or 32 for a net with text_mode: always (Ultralytics calibrates on images without texts)"
            raise ConfigError("quantize", expected, kwargs.get("quantize", kwargs.get("int8")))
        self.root = _folder(kwargs.get("data") or (getattr(net, "args", None) or {}).get("data"))
        if isinstance(wanted, str) and self.root is None:
            raise ConfigError("data", f"a data set for the macro F1 of dsmoe_parity={wanted}", "none")
        self.images = self._images() if wanted else None

    def _images(self) -> Tensor:
        """Return images as the net takes them, (M, 3 or 4, H, W): of the validation half where it is at hand."""
        from PIL import Image

        files = _files(self.root / "val") if self.root else []
        if not files:
            images = drawn_images(IMAGES, self.size)
        else:
            files = [Path(file) for file in spread([str(file) for file in files], IMAGES)]
            prepare = classify_transforms(self.size)
            images = torch.stack([prepare(Image.open(file).convert("RGB")) for file in files])
        texts = texts_of(self.net) if self.net.pair_text else None
        if not self.net.wants_text:
            return images
        try:
            numbers = texts.encode(files).numbers if texts and files else None
        except DSMoEError:  # texts that are not at hand: any numbers tell whether the file does what the net does
            numbers = None
        if numbers is None:
            carried = self.net.model[0].carried
            numbers = np.random.default_rng(0).normal(0, carried**-0.5, (len(images), carried)).astype(np.float32)
        return torch.stack([with_plane(image, own) for image, own in zip(images, numbers, strict=True)])

    def run(self, file: str) -> None:
        """Compare the exported file with the network.

        Raises:
            ParityError: If it does something else.
        """
        if self.images is None or not file:
            return
        path = runnable(file)
        if path is None:
            LOGGER.warning(f"parity: not checked, {Path(file).name} cannot be run here")
            return
        try:
            problems = self._problems(path)
        except Exception as e:  # runtimes' errors have no common base, and a file that cannot be checked is refused
            cause = str(e).partition("\n")[0] or type(e).__name__
            raise ParityError(path.name, f"a file that can be compared with the net ({OFF} skips this)", cause) from e
        if problems:
            left = "; ".join(problems)
            raise ParityError(path.name, "what the net gives", f"{left}; it is not written ({OFF} skips this check)")

    def _problems(self, path: Path) -> list[str]:
        assert self.images is not None
        batch = int(self.kwargs.get("batch") or 1)
        theirs, ours = exported_runner(path), torch_runner(deepcopy(self.net).cpu().float().eval())
        images = self.images.repeat(-(-batch // len(self.images)), 1, 1, 1)
        groups = [images[i : i + batch] for i in range(0, len(images) - batch + 1, batch)]
        found = difference(
            np.concatenate([ours(group)[0] for group in groups]), np.concatenate([theirs(group)[0] for group in groups])
        )
        limit, problems = PROBABILITY[self.bits], []
        names = self.net.names
        problems += [f"class {names[k]} of the file is the net's {names[j]}" for k, j in found.exchanged]
        if not found.finite:
            problems.append("probabilities that are no numbers")
        if limit is not None and not found.probability <= limit:
            problems.append(f"probabilities moved by {found.probability:.3g} (limit {limit:g})")
        judged = "" if limit is not None else ", which is not judged at 8 bits (dsmoe_parity=val compares macro F1)"
        LOGGER.info(f"parity: {found.images} images: probabilities within {found.probability:.2g}{judged}")
        return problems + (self._by_f1(path, self.wanted) if isinstance(self.wanted, str) else [])

    def _by_f1(self, path: Path, split: str) -> list[str]:
        """Compare macro F1 on a split."""
        from ultralytics import YOLO

        settings = {"data": str(self.root), "split": split, "imgsz": self.size[0], "plots": False, "workers": 0}
        with TemporaryDirectory() as folder, at_level(LOGGER, logging.WARNING):
            before, after = (
                model.val(**settings, project=folder, device="cpu").macro_f1
                for model in (deepcopy(self.model), YOLO(path, task="classify"))
            )
        shown = f"macro F1 {before:.4f} -> {after:.4f} on the {split} split"
        LOGGER.info(f"parity: {shown}")
        limit = F1_DROP[self.bits]
        return [] if abs(after - before) <= limit else [f"{shown} (limit {limit:g})"]


def _folder(data: Any) -> Path | None:
    """Return a classification set's folder where it is on this disk."""
    if not isinstance(data, (str, Path)) or not str(data):
        return None
    places = (Path(data), Path(str(SETTINGS["datasets_dir"])) / str(data))
    return next((place.resolve() for place in places if (place / "train").is_dir()), None)


def _files(folder: Path) -> list[Path]:
    """Return the images of a split, sorted."""
    return sorted(file for file in folder.glob("*/*") if file.suffix[1:].lower() in IMG_FORMATS)
