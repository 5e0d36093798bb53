"""Open a classification model and ask it what crops of an image show."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from ultralytics.utils import LOGGER

from ultra_dsmoe.causes import reading
from ultra_dsmoe.errors import ConfigError, WeightsError
from ultra_dsmoe.logs import at_level
from ultra_dsmoe.model.pair_state import wants_texts
from ultra_dsmoe.runtime.file_metadata import read_metadata

KEY, TASK = "dsmoe_verify", "classify"
MOST_CROPS = 64  # that a checkpoint takes at once, our choice: memory for 224 px stays below a detector's own


class BoxClassifier:
    """Any classification model of the host's, or one of ours that needs the picture alone.

    Attributes:
        names: Column to class name.
    """

    def __init__(self, path: Path) -> None:
        """Open a checkpoint, or a file or folder exported from one.

        Raises:
            WeightsError: If it is missing or damaged.
            ConfigError: If it is no classifier, or one that needs texts.
        """
        from ultralytics import YOLO

        if not path.exists():  # the host would go and try to download it
            raise WeightsError(KEY, "an existing classifier, such as cls.pt", f"{path}, which does not exist")
        metadata = {} if path.suffix == ".pt" else read_metadata(path)
        if path.suffix != ".pt" and not metadata.get("names"):
            expected = "a classifier as .pt, .onnx, .engine, .torchscript or OpenVINO folder with its metadata"
            raise WeightsError(KEY, expected, str(path))
        with at_level(LOGGER, logging.WARNING), reading(KEY, "a classifier that can be read", WeightsError, path):
            self._yolo = YOLO(str(path), task=metadata.get("task"))
        if self._yolo.task != TASK:
            raise ConfigError(KEY, f"a classifier (task={TASK})", f"{path} (task={self._yolo.task})")
        net: Any = self._yolo.model  # the path of an exported file
        if wants_texts(net):
            expected = "a classifier that needs the picture alone (text_mode: train), since crops come without texts"
            raise ConfigError(KEY, expected, f"{path} (text_mode: always)")
        self.names = named(metadata["names"] if metadata else net.names)
        self._fixed = bool(metadata)
        self._batch = int(metadata.get("batch", 1)) if metadata else MOST_CROPS
        self._predictor: Any = None

    def probabilities(self, crops: list[np.ndarray], device: Any) -> np.ndarray:
        """Return the probability of each class, float64 (N, K).

        Args:
            crops: Pictures of any sizes, BGR uint8 (h, w, 3).
            device: Where to compute, at the first call.
        """
        if self._predictor is None:
            self._predictor = self._built(device)
        rows: list[np.ndarray] = []
        for start in range(0, len(crops), self._batch):
            chunk = crops[start : start + self._batch]
            missing = self._batch - len(chunk) if self._fixed else 0  # an exported file takes one number of images
            found = self._predictor(source=[*chunk, *chunk[:1] * missing], stream=False)[: len(chunk)]
            rows += [result.probs.data.float().cpu().numpy().astype(np.float64) for result in found]
        return np.stack(rows)

    def _built(self, device: Any) -> Any:
        """Return the host's predictor, set up.

        Not `YOLO.predict`: within the command line's own prediction that one returns nothing and saves every crop.
        """
        own = {k: v for k, v in self._yolo.overrides.items() if k in ("model", "imgsz")}
        use = {"task": TASK, "mode": "predict", "batch": self._batch, "device": device, "save": False, "verbose": False}
        predictor = self._yolo.task_map[TASK]["predictor"](overrides={**own, **use})
        predictor.setup_model(model=self._yolo.model, verbose=False)
        return predictor


def named(names: Any) -> dict[int, str]:
    """Return class numbers and names of a network, or of an exported file's metadata."""
    return {int(number): str(name) for number, name in dict(names).items()}
