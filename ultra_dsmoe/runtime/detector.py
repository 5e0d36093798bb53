"""Run an exported detector without torch: numpy, OpenCV and onnxruntime or TensorRT.

    from ultra_dsmoe.runtime.detector import Runtime

    for found in Runtime("best.onnx").predict("board.jpg"):
        print(found.name, found.score, found.box_xyxy_px)

A file that compares takes the known-good picture of the part too: ``predict("board.jpg", reference="golden.png")``.
Boxes are those of ``yolo predict model=best.onnx``, to a pixel. Class names, input size, stride and batch come from the
metadata of the file; a gray transform is part of its graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ultra_dsmoe.checks import number, whole
from ultra_dsmoe.errors import ConfigError, ShapeError, WeightsError
from ultra_dsmoe.runtime.detections import (
    FINAL_COLUMNS,
    network_input,
    read_image,
    select,
    unletterbox,
)
from ultra_dsmoe.runtime.model_file import ModelInfo, model_info, read_engine, read_onnx
from ultra_dsmoe.runtime.pair_input import paired
from ultra_dsmoe.runtime.pairing import PAIR
from ultra_dsmoe.runtime.reference_entry import PictureReference, ReferenceEntry

CONF, IOU, MAX_DET = 0.25, 0.7, 300  # what the host's `yolo predict` takes by itself
Image = str | Path | np.ndarray


@dataclass(frozen=True)
class Detection:
    """One found object.

    Attributes:
        box_xyxy_px: Left, top, right and bottom in pixels of the image.
        score: Between 0 and 1.
        class_id: Number of the class.
        name: Of the class.
    """

    box_xyxy_px: tuple[float, float, float, float]
    score: float
    class_id: int
    name: str


class Found(list[Detection]):
    """The detections of one image, strongest first.

    Attributes:
        reference: What is known of the image's reference, None where the file takes none.
        other_product: Whether the reference seems to show another product, so that its boxes mean nothing.
    """

    reference: PictureReference | None = None
    other_product: bool = False


class Session(Protocol):
    """A loaded file: takes images (B, C, H, W), gives predictions.

    Attributes:
        input_shape: Of the graph; None for an axis that is free.
        dtype: Of the images.
    """

    input_shape: tuple[int | None, ...]
    dtype: np.dtype

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the first output."""
        ...


class OnnxSession:
    """An ONNX file in onnxruntime, on CUDA where the installed onnxruntime has it."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Load the file.

        Raises:
            ConfigError: If onnxruntime is not installed.
            WeightsError: If it refuses the file.
        """
        try:
            import onnxruntime
        except ImportError as e:
            raise ConfigError("onnxruntime", "an installed onnxruntime, to run .onnx files", str(e)) from e
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # what it warns of is not the user's to mend
        if threads is not None:
            options.intra_op_num_threads = threads
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as e:  # its errors have no common base
            raise WeightsError(str(path), "a graph that onnxruntime loads", f"{type(e).__name__}: {e}") from e
        image = self._session.get_inputs()[0]
        self._name, self._output = image.name, self._session.get_outputs()[0].name
        self.input_shape = tuple(n if isinstance(n, int) else None for n in image.shape)
        self.dtype = np.dtype(np.float16 if image.type == "tensor(float16)" else np.float32)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the predictions for images (B, C, H, W)."""
        return self._session.run([self._output], {self._name: images})[0]


class Runtime:
    """A detector from an exported file.

    Attributes:
        info: What the file says about itself.
        batch: How many images one run takes, None for any number.
    """

    info: ModelInfo
    batch: int | None

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        """Load a file.

        Args:
            path: An ``.onnx`` or ``.engine`` file, written by ``yolo export`` or by our builder.
            threads: CPU threads of onnxruntime; None leaves the choice to it.

        Raises:
            ConfigError: If the file is of another kind, or the library that runs it is missing.
            WeightsError: If it is missing, damaged, without metadata, or from another TensorRT version or GPU.
        """
        path = Path(path)
        if path.suffix not in (".onnx", ".engine"):
            raise ConfigError("model", "an .onnx or .engine file", str(path))
        if path.suffix == ".onnx":
            self.info = model_info(path, read_onnx(path).metadata)
            self._session: Session = OnnxSession(path, threads)
        else:
            from ultra_dsmoe.runtime.tensorrt_session import TensorRTSession

            metadata, engine = read_engine(path)
            self.info = model_info(path, metadata)
            self._session = TensorRTSession(path, engine, metadata)
        shape = self._session.input_shape
        if len(shape) != 4 or shape[1] not in (None, self.info.channels):
            raise ShapeError(str(path), f"an input of {self.info.channels} channels (B, C, H, W)", f"{shape}")
        if self.info.reference is not None and self.info.channels != PAIR * self.info.reference.channels:
            expected = f"an input of {PAIR * self.info.reference.channels} channels, image and reference"
            raise ShapeError(str(path), expected, f"{self.info.channels}")
        self.batch = shape[0]
        self._size = (shape[2] or self.info.imgsz[0], shape[3] or self.info.imgsz[1])
        self._stride = self.info.stride if shape[2] is None and shape[3] is None else None

    def predict(
        self,
        image: Image,
        *,
        reference: Image | None = None,
        conf: float = CONF,
        iou: float = IOU,
        max_det: int = MAX_DET,
        agnostic: bool = False,
    ) -> Found:
        """Find the objects in one image.

        Args:
            image: A file; or an array, uint8, (H, W, 3) in OpenCV's order BGR, or (H, W) gray.
            reference: The known-good picture of the part, for files that compare; likewise.
            conf: Lowest score.
            iou: Overlap from which the weaker of two boxes of a class goes; without effect where the file selects its
                detections itself.
            max_det: How many are returned at most.
            agnostic: Compare boxes across classes too.

        Returns:
            The detections, strongest first.

        Raises:
            DataError: If there is no such file or it is no picture.
            ShapeError: If the array is no picture.
            ConfigError: If a threshold is outside [0, 1], or the file compares and has nothing to compare with, or the
                other way round.
        """
        references = None if reference is None else [reference]
        return self.predict_batch([image], references, conf=conf, iou=iou, max_det=max_det, agnostic=agnostic)[0]

    def predict_batch(
        self,
        images: Sequence[Image],
        references: Image | Sequence[Image | None] | None = None,
        *,
        conf: float = CONF,
        iou: float = IOU,
        max_det: int = MAX_DET,
        agnostic: bool = False,
    ) -> list[Found]:
        """Find the objects in several images by one run; arguments, detections and errors as in `predict`.

        Args:
            images: As many as the file takes, at most.
            references: One for each image, None for those without, or one for all.
            conf: See `predict`.
            iou: See `predict`.
            max_det: See `predict`.
            agnostic: See `predict`.

        Raises:
            ConfigError: Also if there is no image, there are more than the file was exported for, or another number of
                references.
        """
        for name, value in (("conf", conf), ("iou", iou)):
            number(name, value, 0, 1)
        whole("max_det", max_det)
        if not isinstance(images, (list, tuple)) or not images:
            raise ConfigError("images", "a list of at least one image", type(images).__name__)
        if self.batch is not None and len(images) > self.batch:
            raise ConfigError("images", f"at most {self.batch}, the batch of the exported file", len(images))
        pictures, known = self._read(images, references)
        batch = network_input(pictures, self._size, batch=self.batch, stride=self._stride, dtype=self._session.dtype)
        predictions = self._predictions(batch)[: len(pictures)]
        final = self.info.final or predictions.shape[-1] == FINAL_COLUMNS
        frame = (batch.shape[2], batch.shape[3])
        found = []
        for picture, prediction, reference in zip(pictures, predictions, known, strict=True):
            rows = select(prediction, conf, iou, max_det, agnostic, final)
            rows[:, :4] = unletterbox(rows[:, :4], frame, picture.shape[:2])
            own = Found(self._detection(row) for row in rows)
            own.reference = reference
            own.other_product = reference is not None and reference.is_other(self.limit)
            found.append(own)
        return found

    @property
    def limit(self) -> float:
        """Mismatch above which a reference counts as that of another product."""
        return (self.info.reference or ReferenceEntry()).mismatch_limit

    def _read(self, images: Sequence[Image], references: Any) -> tuple[list[np.ndarray], list[PictureReference | None]]:
        """Return what the network takes, (H, W, channels), and what is known of the references."""
        entry = self.info.reference
        if isinstance(references, (str, Path, np.ndarray)):
            references = [references] * len(images)
        given = [None] * len(images) if references is None else list(references)
        if len(given) != len(images):
            raise ConfigError("references", f"one for each of {len(images)} images", f"{len(given)}")
        if entry is None:
            if any(reference is not None for reference in given):
                raise ConfigError("reference", "a file that compares (exported from a net with references)", "another")
            return [read_image(image, self.info.channels) for image in images], given
        pairs = [paired(image, reference, entry) for image, reference in zip(images, given, strict=True)]
        return [pair for pair, _ in pairs], [known for _, known in pairs]

    def _predictions(self, batch: np.ndarray) -> np.ndarray:
        """Run the network and check that its output is that of a detector with these classes."""
        out = self._session(batch)
        final = out.ndim == 3 and out.shape[-1] == FINAL_COLUMNS
        if out.ndim != 3 or not (final or out.shape[1] == 4 + len(self.info.names)):
            expected = f"(B, {4 + len(self.info.names)}, anchors) or (B, detections, {FINAL_COLUMNS})"
            raise ShapeError("predictions", expected, out.shape)
        return out

    def _detection(self, row: np.ndarray) -> Detection:
        left, top, right, bottom, score = (float(v) for v in row[:5])
        number = int(row[5])
        return Detection((left, top, right, bottom), score, number, self.info.names.get(number, str(number)))
