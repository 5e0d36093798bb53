"""The host's data set of images, each with its known-good picture as further channels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ultralytics.data.dataset import YOLODataset

from ultra_dsmoe.data.reference.augment import PairAugment, for_pairs
from ultra_dsmoe.data.reference.in_force import DATA_KEY
from ultra_dsmoe.data.reference.pairing import PAIR, stacked
from ultra_dsmoe.data.reference.references import References
from ultra_dsmoe.files import file_state, whole_file

CACHED = ".reference.npz"  # behind the image's name: its reference as it lies on the image


class ReferenceDataset(YOLODataset):
    """The host's, but for what `load_image` returns: pairs (H, W, 2C), in training with changes of their own.

    The image is read, and cached on disk, as in any other run of the host: only what is kept in memory are pairs.
    """

    references: References
    ims: Any  # the host's list of what is in memory, annotated there by what it begins with

    def __init__(self, *args: Any, data: dict[str, Any], **kwargs: Any) -> None:
        """Build the data set; arguments are the host's.

        Args:
            *args: The host's.
            data: The host's data dictionary with the references under `DATA_KEY`.
            **kwargs: The host's.

        Raises:
            DSMoEError: If an image has no reference and may not be without, or references cannot be used.
        """
        self.references = data[DATA_KEY]
        self._augment = PairAugment(self.references.spec.strengths)
        # The host reads images by this number of channels.
        super().__init__(*args, data={**data, "channels": self.references.channels}, **kwargs)

    def get_labels(self) -> list[dict[str, Any]]:
        """Return the host's labels; the references of what images remain are checked and laid on them."""
        labels: list[dict[str, Any]] = super().get_labels()
        self.references.require(self.im_files)
        self.references.prepare(self.im_files, self.prefix)
        return labels

    def load_image(self, i: int, *args: Any, **kwargs: Any) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
        """Return a pair and the sizes of its image before and after resizing; arguments are the host's."""
        image, original, resized = super().load_image(i, *args, **kwargs)
        if image.shape[2] == PAIR * self.references.channels:  # from memory
            return image, original, resized
        pair = stacked(image, self._resized(self._reference(i, original), image.shape))
        if self.ims[i] is not None:  # the host keeps what it has just loaded
            self.ims[i] = pair
        return pair, original, resized

    def get_image_and_label(self, index: int) -> dict[str, Any]:
        """Return the host's labels with a pair, in training one that was changed."""
        label: dict[str, Any] = super().get_image_and_label(index)
        if self.augment:
            label["img"] = self._augment(label["img"])
        return label

    def build_transforms(self, hyp: Any = None) -> Any:
        """Build the host's transforms, those of a training fitted to pairs."""
        transforms = super().build_transforms(hyp)
        return for_pairs(transforms, self.references.channels, hyp.bgr) if self.augment else transforms

    def cache_images_to_disk(self, i: int) -> None:
        """Save an image as the host does, and its reference beside it."""
        super().cache_images_to_disk(i)
        self._reference(i, None)

    def check_cache_disk(self, safety_margin: float = 0.1) -> bool:
        """Say whether there is room on the disk for the images and as much again."""
        return bool(super().check_cache_disk(PAIR * (1 + safety_margin) - 1))

    def sources(self, i: int) -> list[Path]:
        """Return the files that a pair is made of."""
        reference = self.references.find(self.im_files[i])
        return [Path(self.im_files[i]), *([] if reference is None else [reference])]

    def _reference(self, i: int, size: tuple[int, int] | None) -> np.ndarray:
        """Return the reference of an image in the image's size (height, width), with ``cache=disk`` from there."""
        if self.cache != "disk" or self.references.spec.image is not None:
            return self._laid_on(i, size)
        file = Path(self.im_files[i]).with_suffix(CACHED)
        state = json.dumps([self.references.settings, *((str(f), file_state(f)) for f in self.sources(i))])
        try:
            with np.load(file) as kept:
                if str(kept["state"]) == state:
                    return np.asarray(kept["pixels"])
        except (OSError, ValueError, KeyError):  # none yet, or a damaged one: written anew
            pass
        pixels = self._laid_on(i, size)
        with whole_file(file) as part, part.open("wb") as f:
            np.savez(f, pixels=pixels, state=np.array(state))
        return pixels

    def _laid_on(self, i: int, size: tuple[int, int] | None) -> np.ndarray:
        """Return the reference of an image as it lies on it.

        Where all of it does, the image's size is all that is needed of the image, which the host has read already.
        """
        lies_as_it_is = size is not None and self.references.spec.align == "none"
        frame = np.zeros((*size, self.references.channels), np.uint8) if size and lies_as_it_is else None
        return self.references.load(self.im_files[i], frame).pixels

    @staticmethod
    def _resized(reference: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return a reference in the size to which the host has resized its image, resized alike."""
        if reference.shape != shape:
            reference = cv2.resize(reference, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
        return reference.reshape(shape)
