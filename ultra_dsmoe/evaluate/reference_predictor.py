"""Prediction with a known-good picture beside every picture of the source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from ultralytics.engine.results import Results
from ultralytics.models.yolo.detect import DetectionPredictor

from ultra_dsmoe.data.reference import in_force
from ultra_dsmoe.data.reference.references import Loaded, References
from ultra_dsmoe.data.reference.registration import mismatch
from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.evaluate.reference_choice import ListedReferences, entry_of, missing, require_length
from ultra_dsmoe.evaluate.reference_log import FILE, ReferenceLog
from ultra_dsmoe.runtime.detections import read_image
from ultra_dsmoe.runtime.pairing import PAIR, blank_like, halves, stacked
from ultra_dsmoe.runtime.reference_entry import ABSENT, BLANK, KEY, OK, PictureReference, ReferenceEntry

CHANNELS = ("channels", "ch")  # where newer and older hosts keep how many channels a loaded net takes


class ReferencedResults(Results):
    """The host's results of a picture, with what is known of its reference."""

    reference: PictureReference

    @classmethod
    def of(cls, result: Results, reference: PictureReference) -> ReferencedResults:
        """Return the host's results with a reference."""
        made = cls.__new__(cls)
        vars(made).update(vars(result))
        made.reference = reference
        return made

    def new(self) -> ReferencedResults:
        """Return results of the same picture without boxes, as the host does before it moves or chooses some."""
        return self.of(super().new(), self.reference)


class ReferencePredictor(DetectionPredictor):
    """The host's predictor for detectors of ours; one with a `Reference` row gets pairs.

    Attributes:
        entry: What the net or file says about references, None where it takes none.
        references: Those of the call.
        log: What became of them.
    """

    entry: ReferenceEntry | None = None
    references: References
    log: ReferenceLog
    batch: Any  # the host's attributes, for the type checker
    results: Any
    dataset: Any
    _states: list[PictureReference]
    _begun: Path | None = None  # run folder whose CSV is of this predictor
    _by_path: dict[str, References] | None = None  # of a list of references for a list of files

    def setup_model(self, model: Any, *args: Any, **kwargs: Any) -> None:
        """Load the model as the host does; arguments are the host's."""
        self.entry = entry_of(model if model is not None else self.args.model)
        super().setup_model(model, *args, **kwargs)

    def setup_source(self, source: Any, *args: Any, **kwargs: Any) -> None:
        """Open the source as the host does, and check the references before any work; arguments are the host's.

        Raises:
            DSMoEError: If there are none, or they do not suit the source.
        """
        if self.entry is None:
            super().setup_source(source, *args, **kwargs)
            return
        with _image_channels(self.model, self.entry.channels):
            super().setup_source(source, *args, **kwargs)
        if isinstance(source, (list, tuple)) and self.dataset.source_type.from_img:
            self.dataset.paths = _names(source, self.dataset.paths)
        if self.dataset.source_type.tensor:
            self._check_pairs()
        else:
            references = in_force.current()
            if references is None:
                raise missing(str(self.args.model))
            self.references = references
            self._check_source()
        self.log = ReferenceLog(self.entry.mismatch_limit, self._csv())

    def _csv(self) -> Path | None:
        """Return the CSV to write, without the rows of an earlier run; None where nothing is saved."""
        if not (self.args.save or self.args.save_txt):
            return None
        file = Path(self.save_dir) / FILE
        if self._begun != file:
            file.unlink(missing_ok=True)
        self._begun = file
        return file

    def _check_pairs(self) -> None:
        """Check that a tensor has the references behind its images.

        Raises:
            ShapeError: If it has not.
        """
        assert self.entry is not None
        channels = PAIR * self.entry.channels
        if self.dataset.im0.shape[1] != channels:
            wanted = f"a tensor (B, {channels}, H, W), each image and behind it its reference"
            raise ShapeError("source", wanted, f"{tuple(self.dataset.im0.shape)}")

    def _check_source(self) -> None:
        """Check that each picture of the source can have its reference.

        Raises:
            DSMoEError: If one cannot.
        """
        source, kind = self.dataset, self.dataset.source_type
        live = kind.stream or kind.screenshot
        names = [str(n) for n in (getattr(source, "sources", [""]) if live else _paths(source))]
        in_memory = live or kind.from_img
        videos = [] if in_memory else [n for n, video in zip(names, source.video_flag, strict=True) if video]
        if isinstance(self.references, ListedReferences):
            require_length(self.references, len(names))
            self._by_path = None if in_memory else dict(zip(names, self.references.each, strict=True))
            return
        images = [n for n in names if n not in videos and Path(n).is_file()]
        if images:
            self.references.require(images)
        for name in (n for n in names if n not in images):
            self._require_rule(name)

    def _require_rule(self, name: str) -> None:
        """Check that what is no picture file, as a video or an array, can have a reference.

        Raises:
            ConfigError: If references are found by the names of files and this has none.
        """
        spec = self.references.spec
        found = Path(name).is_file() and self.references.find(name) is not None
        if by_name(self.references) and not found and spec.missing != BLANK:
            wanted = f"one reference for all of what is no picture file ({KEY}=golden.png), or missing: blank"
            raise ConfigError(spec.argument, wanted, f"{name or 'a stream'} without one")

    def preprocess(self, img: Any) -> Tensor:
        """Prepare pictures as the host does, each with its reference behind it.

        Args:
            img: Pictures of the source, or a tensor (B, 2C, H, W) of pairs.
        """
        if self.entry is None:
            return super().preprocess(img)
        if isinstance(img, Tensor):
            self._states = [_state_of_pair(pair) for pair in img]
        else:
            pictures = [read_image(picture, self.entry.channels) for picture in img]
            places = enumerate(zip(self.batch[0], pictures, strict=True))
            loaded = [self._loaded(i, str(path), picture) for i, (path, picture) in places]
            img = [stacked(picture, found.pixels) for picture, (_, found) in zip(pictures, loaded, strict=True)]
            self._states = [found.report(file) for file, found in loaded]
        for path, state in zip(self.batch[0], self._states, strict=True):
            self.log.add(str(path), state)
        return super().preprocess(img)

    def _loaded(self, number: int, path: str, picture: np.ndarray) -> tuple[str | None, Loaded]:
        """Return the reference of a picture, with its file; arguments are its number in the batch, name and pixels."""
        references = self.references
        if isinstance(references, ListedReferences):
            references = self._by_path[path] if self._by_path is not None else references.each[number]
        if by_name(references) and not Path(path).is_file():  # permitted, or the source was refused
            return None, Loaded(blank_like(picture), None, None, ABSENT)
        found = references.find(path)
        return None if found is None else str(found), references.load(path, picture)

    def construct_results(self, preds: Any, img: Tensor, orig_imgs: Sequence[np.ndarray], *args: Any) -> list[Results]:
        """Return the host's results of a batch, with their references; arguments are the host's."""
        if self.entry is None:
            return super().construct_results(preds, img, orig_imgs, *args)
        if self.dataset.source_type.tensor:  # of pairs: what is drawn on is the image
            orig_imgs = [_halves(pair)[0] for pair in img]
        found = super().construct_results(preds, img, orig_imgs, *args)
        return [ReferencedResults.of(*pair) for pair in zip(found, self._states, strict=True)]

    def write_results(self, i: int, *args: Any, **kwargs: Any) -> str:
        """Write results as the host does; its line for the log also says what is wrong with the reference."""
        line = super().write_results(i, *args, **kwargs)
        note = "" if self.entry is None else self._states[i].note(self.log.limit)
        return f"{line} ({note})" if note else line

    def run_callbacks(self, event: str) -> None:
        """Run the callbacks of an event, and keep the CSV up to date."""
        super().run_callbacks(event)
        if self.entry is not None and event == "on_predict_batch_end":
            self.log.write()
        elif self.entry is not None and event == "on_predict_end":
            self.log.finish(bool(self.args.verbose))


@contextmanager
def _image_channels(model: Any, channels: int) -> Iterator[None]:
    """Let the host's loaders read pictures with the channels of an image, though the net takes pairs."""
    carried = {name: getattr(model, name) for name in CHANNELS if getattr(model, name, None) == PAIR * channels}
    try:
        for name in carried:
            setattr(model, name, channels)
        yield
    finally:
        for name, count in carried.items():
            setattr(model, name, count)


def _paths(source: Any) -> list[Any]:
    """Return the names of the pictures of one of the host's loaders."""
    return list(getattr(source, "files", None) or source.paths)


def _names(source: Sequence[Any], paths: Sequence[str]) -> list[str]:
    """Return the names of listed pictures: some hosts lose those of files when they turn them upright."""
    listed = [str(one) if isinstance(one, (str, Path)) else "" for one in source]
    return [name if Path(name).is_file() else path for name, path in zip(listed, paths, strict=True)]


def by_name(references: References) -> bool:
    """Whether an image's reference is found by the image's name."""
    spec = references.spec
    return spec.folder is not None or spec.csv is not None or spec.pattern is not None


def _halves(pair: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return image and reference, uint8 (H, W, C), of a pair (2C, H, W) in [0, 1]."""
    return halves((pair.detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def _state_of_pair(pair: Tensor) -> PictureReference:
    """Return what can be said of the reference in a pair (2C, H, W)."""
    image, reference = _halves(pair)
    return PictureReference(OK, mismatch(image, reference)) if reference.any() else PictureReference(ABSENT)
