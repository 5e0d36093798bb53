"""Images, and a fault to plant into what a file gives, that several tests of the parity gate share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

IMAGES = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(3))


def shifted(row: slice, by: float, image: int) -> Callable[..., Any]:
    """Return a fault that moves some rows of an image's predictions (B, rows, A)."""

    def fault(predictions: np.ndarray, gates: list[Any]) -> tuple[Any, ...]:
        predictions = predictions.copy()
        predictions[image, row] += by
        return predictions, gates

    return fault
