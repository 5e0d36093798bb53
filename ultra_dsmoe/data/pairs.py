"""A classification set whose images carry their texts: the vectors travel as one more channel of the image.

Everything between loader and network hands on one tensor per image. So the numbers of the encoded texts fill the first
pixels of a fourth channel, row by row, and the network's first row takes them out again (`SplitText`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ultra_dsmoe.data.stage_sampler import split_index
from ultra_dsmoe.errors import ConfigError, DataError


def require_room(numbers: int, size: tuple[int, int]) -> None:
    """Refuse images too small to carry so many numbers.

    Raises:
        ConfigError: If they are.
    """
    if numbers > size[0] * size[1]:
        side = int(np.ceil(np.sqrt(numbers)))
        raise ConfigError("imgsz", f"at least {side}, since an image carries the {numbers} numbers of its texts", size)


def require_classes(folder: str | Path | None, split: str) -> None:
    """Refuse a split without a class, before the host looks into a folder that is not there.

    Args:
        folder: Where the host looks for the split's images, None where it found no folder.
        split: Its name.

    Raises:
        DataError: If there is no folder, or no folder of a class in it.
    """
    if folder is None or not any(child.is_dir() for child in Path(folder).iterdir()):
        got = "no such folder" if folder is None else f"no folder of a class in {folder}"
        raise DataError("data", f"a folder with images in {split}/<class>/", got)


def with_plane(image: Tensor, numbers: np.ndarray) -> Tensor:
    """Return an image (3, H, W) with one more channel that begins with ``numbers`` and is 0 behind them."""
    plane = image.new_zeros(1, *image.shape[-2:])
    plane.view(-1)[: len(numbers)] = torch.from_numpy(numbers).to(plane)
    return torch.cat([image, plane])


class PairDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Wrap the host's classification set: same items, plus the texts' numbers and which texts are equal.

    Attributes:
        images: The host's set; what is not known here is looked up there.
    """

    def __init__(self, images: Any, numbers: np.ndarray, groups: np.ndarray) -> None:
        """Join images and texts.

        Args:
            images: The host's set of M images.
            numbers: Of the texts, float32 (M, L).
            groups: Which texts are equal: int (M, 2), of the picture's description and of the record's.
        """
        self.images, self.numbers, self.groups = images, numbers, groups

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return image with plane, class, numbers of its texts and the turn, for an index of `StageSampler`."""
        i, turn = split_index(int(index), len(self.images))
        item = dict(self.images[i])
        item["img"] = with_plane(item["img"], self.numbers[i])
        return {**item, "groups": torch.from_numpy(self.groups[i]), "turn": turn}

    @property
    def samples(self) -> list[Any]:
        """The host's list of images, each with its file first."""
        return list(self.images.samples)

    @samples.setter
    def samples(self, left: list[Any]) -> None:
        """Leave images out, as hosts before 8.4.100 do with those of classes that a net lacks."""
        place = {sample[0]: i for i, sample in enumerate(self.images.samples)}
        rows = [place[sample[0]] for sample in left]
        self.images.samples, self.numbers, self.groups = left, self.numbers[rows], self.groups[rows]

    def __getattr__(self, name: str) -> Any:
        """Look up in the host's set what it is asked for beside its images."""
        if name == "images":  # not set yet: a copy in the making
            raise AttributeError(name)
        return getattr(self.images, name)
