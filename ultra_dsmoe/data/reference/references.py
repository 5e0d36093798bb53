"""The known-good pictures of a set of images: found, checked, read, and laid on their images."""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ultra_dsmoe.data.reference.pairing import blank_like
from ultra_dsmoe.data.reference.places import named, place_of
from ultra_dsmoe.data.reference.prepared import Prepared, stamp
from ultra_dsmoe.data.reference.registration import MISMATCH_LIMIT, Measured, measured
from ultra_dsmoe.data.reference.spec import ReferenceSpec
from ultra_dsmoe.errors import DataError, DSMoEError
from ultra_dsmoe.runtime.detections import read_image
from ultra_dsmoe.runtime.pair_input import Loaded as Loaded
from ultra_dsmoe.runtime.pair_input import fitted, laid
from ultra_dsmoe.runtime.reference_entry import ABSENT as ABSENT
from ultra_dsmoe.runtime.reference_entry import OK as OK
from ultra_dsmoe.runtime.reference_entry import UNREGISTERED as UNREGISTERED
from ultra_dsmoe.runtime.reference_entry import PictureReference

EACH = "a reference for each image (or missing: blank)"


class References:
    """Known-good pictures, by image."""

    def __init__(self, spec: ReferenceSpec, channels: int) -> None:
        """Remember where they are.

        Args:
            spec: What the user said.
            channels: Of the images, and so of the references.
        """
        self.spec, self.channels = spec, channels
        self._place = place_of(spec)
        self._prepared = Prepared(spec.align, channels)
        self._required: set[Path] = set()
        self._last: tuple[tuple[Path, int], np.ndarray] | None = None  # one picture often serves many images

    @property
    def settings(self) -> dict[str, Any]:
        """What all that is kept of the references on disk depends on, beside the files themselves."""
        return self._prepared.settings

    def find(self, image: str | Path) -> Path | None:
        """Return the file of an image's reference, None where it has none or all share an array."""
        return None if self._place is None else self._place.find(Path(image))

    def require(self, images: Sequence[str | Path]) -> None:
        """Check the references of some images before any work, of each image once.

        Args:
            images: Their files.

        Raises:
            DSMoEError: If a place is wrong, an image has none and may not be without, or the first shows another size.
        """
        from ultralytics.utils import LOGGER

        files = [Path(image) for image in images]
        if self._required.issuperset(files):
            return
        if self._place is not None:
            self._place.check(files)
            self._refuse_themselves(files)
            missing = [file for file in files if self._place.find(file) is None]
            found = f"{len(missing)} of {len(files)} missing ({named(file.name for file in missing)})"
            if missing and self.spec.missing == "error":
                raise DataError(self.spec.argument, EACH, found)
            if missing:
                LOGGER.warning(f"{self.spec.argument}: {found}; they go with a blank reference")
        for file in files:
            reference = self._pixels(file)
            picture = None if reference is None else _decoded(file, self.channels)
            if picture is not None and reference is not None:
                self._fitted(file, reference, picture)
                break
        self._required.update(files)

    def _refuse_themselves(self, files: Sequence[Path]) -> None:
        """Refuse images as their own references: nothing differs then, and a net would see no defect.

        Raises:
            DataError: If several images are; one that is the good part itself may stand among them.
        """
        same = [file for file in files if (found := self.find(file)) and found.resolve() == file.resolve()]
        if len(same) > 1 or same == list(files):
            got = f"the image itself for {len(same)} of {len(files)} ({named(file.name for file in same)})"
            raise DataError(self.spec.argument, "pictures of known-good parts", got)

    def load(self, image: str | Path, picture: np.ndarray | None = None) -> Loaded:
        """Return the reference of an image in its frame.

        What `prepare` has measured is used; of other images it is measured here.

        Args:
            image: Its file, or a name for a picture that is none.
            picture: Its pixels (H, W, C), uint8, BGR; read from the file where they are left out.

        Raises:
            DSMoEError: If it has none and may not be without, or one that cannot be used.
        """
        file = Path(image)
        picture = _read_file(str(file), file, self.channels) if picture is None else picture
        reference = self._pixels(file)
        if reference is None:
            if self.spec.missing == "error":
                raise DataError(self.spec.argument, EACH, f"none for {file}")
            return Loaded(blank_like(picture), None, None, ABSENT)
        reference = self._fitted(file, reference, picture)
        return laid(picture, reference, self._known(file) or measured(picture, reference, self.spec.align))

    def report(self, image: str | Path) -> PictureReference:
        """Return what is known of the reference of an image; measured here where `prepare` has not done it.

        Args:
            image: Its file.

        Raises:
            DSMoEError: As in `load`.
        """
        file = Path(image)
        found, known = self.find(file), self._known(file)
        name = None if found is None else str(found)
        if self.spec.missing == "blank" and not self._has(file):
            return PictureReference(ABSENT)
        if known is None:
            return self.load(file).report(name)
        return PictureReference(UNREGISTERED if known.is_lost else OK, known.mismatch, known.quality, name)

    def prepare(self, images: Sequence[str | Path], prefix: str = "") -> None:
        """Measure all pairs once: how the reference lies on its image, and whether it shows the same product.

        Args:
            images: Files of the images.
            prefix: What the bar and the summary begin with.

        Raises:
            DSMoEError: If a reference cannot be used.
        """
        from ultralytics.utils import LOGGER, NUM_THREADS, TQDM

        files = [Path(image) for image in images]
        folders = sorted({file.parent for file in files})
        for folder in folders:
            self._prepared.read(folder)
        new = [file for file in files if self._known(file) is None and self._has(file)]
        if new:
            with ThreadPool(min(NUM_THREADS, len(new))) as pool:
                bar = TQDM(pool.imap_unordered(self._prepare, new), total=len(new), desc=f"{prefix}Reading references")
                for _ in bar:
                    pass
            kept = [self._prepared.write(folder) for folder in folders]
            if not all(kept):
                LOGGER.warning(f"{prefix}references: measured in each run, nothing can be written beside the images")
        LOGGER.info(f"{prefix}references: {self._summary(files)}")

    def mismatch(self, image: str | Path) -> float | None:
        """Return what `prepare` has measured of the mismatch of a pair, None where there is no reference to compare.

        One that could not be laid on its image is none: the pair goes without it.
        """
        known = self._known(Path(image))
        return None if known is None or known.is_lost else known.mismatch

    def _summary(self, files: Sequence[Path]) -> str:
        """Return in a line what is known of the references of some images."""
        known = {file: found for file in files if (found := self._known(file))}
        lost = [file.name for file, one in known.items() if one.is_lost]
        other = [file.name for file, one in known.items() if one.mismatch > MISMATCH_LIMIT]
        said = [f"{len(known) - len(lost)} of {len(files)} images have one"]
        if lost:
            said.append(f"{len(lost)} could not be laid on their image and count as missing ({named(lost)})")
        if other:
            said.append(
                f"{len(other)} seem to show another product, mismatch above {MISMATCH_LIMIT:g} ({named(other)})"
            )
        return "; ".join(said)

    def _has(self, image: Path) -> bool:
        """Whether there is a reference for an image."""
        return self.spec.image is not None or self.find(image) is not None

    def _prepare(self, image: Path) -> None:
        """Measure a pair and remember it; a picture that cannot be read is left to the host, which says so."""
        picture, reference = _decoded(image, self.channels), self._pixels(image)
        if picture is not None and reference is not None:
            picture = read_image(picture, self.channels)
            known = measured(picture, self._fitted(image, reference, picture), self.spec.align)
            self._prepared.put(image, stamp(image, self._source(image)), known)

    def _known(self, image: Path) -> Measured | None:
        """Return what was measured of a pair that has not changed since."""
        try:
            return self._prepared.get(image, stamp(image, self._source(image)))
        except (FileNotFoundError, DSMoEError):  # a picture that is no file, or no reference: nothing was measured
            return None

    def _source(self, image: Path) -> Path | np.ndarray:
        """Return the file of an image's reference, or the array that serves all.

        Raises:
            DataError: If it has none.
        """
        found = self.spec.image if self.spec.image is not None else self.find(image)
        if found is None:
            raise DataError(self.spec.argument, EACH, f"none for {image}")
        return found

    def _pixels(self, image: Path) -> np.ndarray | None:
        """Return the pixels of an image's reference as the host reads an image, None where it has none."""
        if self.spec.image is not None:
            try:
                return read_image(self.spec.image, self.channels)
            except DSMoEError as e:
                raise type(e)(self.spec.argument, e.expected, e.got) from e
        found = self.find(image)
        if found is None:
            return None
        last, state = self._last, (found, found.stat().st_mtime_ns)
        if last is None or last[0] != state:
            self._last = last = state, _read_file(self.spec.argument, found, self.channels)
        return last[1]

    def _fitted(self, image: Path, reference: np.ndarray, picture: np.ndarray) -> np.ndarray:
        """Return a reference in the size of its image.

        Raises:
            DataError: If it shows a piece of another shape.
        """
        return fitted(self.spec.argument, reference, picture, image.name, self.find(image))


def _read_file(argument: str, file: Path, channels: int) -> np.ndarray:
    """Return a picture (H, W, C) as the host's loader of data sets reads it.

    Raises:
        DataError: If it cannot be read, or has another number of channels.
    """
    pixels = _decoded(file, channels)
    if pixels is None:
        raise DataError(argument, "a picture that can be read", str(file))
    try:
        return read_image(pixels, channels)
    except DSMoEError as e:
        raise DataError(argument, f"a picture of {channels} channels", f"{file} ({e.got})") from e


def _decoded(file: Path, channels: int) -> np.ndarray | None:
    """Return what the host's loader makes of a file, None where it makes nothing of it."""
    from ultralytics.utils.patches import imread

    flag = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR}.get(channels, cv2.IMREAD_UNCHANGED)
    pixels: np.ndarray | None = imread(str(file), flag)
    return pixels
