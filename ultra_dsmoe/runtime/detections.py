"""From images to the network's input and from its predictions to boxes, in numpy and OpenCV, as the host does it.

Every function does in numpy what one of the host does in torch, with the same types and in the same order, so that
both round alike: letterbox and scaling of `LetterBox` and `ops.scale_boxes`, selection of `nms.non_max_suppression`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from ultra_dsmoe.constants import LETTERBOX_GRAY
from ultra_dsmoe.errors import DataError, DSMoEError, ShapeError

EDGE = 0.1  # the host's: sends the odd pixel of the bars to the right and below
MAX_BOXES = 30000  # candidates that NMS looks at, the host's
CLASS_OFFSET = 7680  # pixels between the classes' boxes in one NMS over all classes, the host's
FINAL_COLUMNS = 6  # x1, y1, x2, y2, score, class
LEVELS = 255
Image = str | Path | np.ndarray


def read_image(source: Image, channels: int = 3) -> np.ndarray:
    """Return a picture as the host's loaders do.

    Args:
        source: A file, or an array of uint8 or uint16: (H, W) or (H, W, 1) gray, (H, W, 3) BGR, (H, W, 4) BGRA.
        channels: That the network takes.

    Returns:
        (H, W, channels), uint8, BGR.

    Raises:
        DataError: If there is no such file or it is no picture.
        ShapeError: If the array is none of these.
    """
    if not isinstance(source, np.ndarray):
        return _read_file(Path(source), channels)
    image = (source >> 8).astype(np.uint8) if source.dtype == np.uint16 else source
    image = image[..., None] if image.ndim == 2 else image
    if image.dtype != np.uint8 or image.ndim != 3 or 0 in image.shape or image.shape[2] not in (1, 3, 4, channels):
        raise ShapeError("image", "uint8 of shape (H, W, 3), BGR, or (H, W)", f"{source.dtype} of {source.shape}")
    found = image.shape[2]
    if found == channels:
        return image
    if found == 1:
        return np.repeat(image, channels, axis=2)
    if channels == 1:
        return cv2.cvtColor(image, cv2.COLOR_BGRA2GRAY if found == 4 else cv2.COLOR_BGR2GRAY)[..., None]
    if channels == 3:
        return cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
    raise ShapeError("image", f"{channels} channels", f"{found}")


def read_images(sources: Iterable[Image], channels: int = 3) -> Iterator[np.ndarray]:
    """Yield pictures as `read_image` returns them; unreadable ones are skipped with a warning, as in the host.

    Raises:
        DataError: After the last, if there was none that can be read.
    """
    return (picture for _, picture in read_each(sources, channels))


def read_each(
    sources: Iterable[Image], channels: int, of_arrays: int | None = None
) -> Iterator[tuple[Image, np.ndarray]]:
    """Yield sources with their pictures; the rest is as in `read_images`.

    Args:
        sources: Files or arrays.
        channels: Of the pictures.
        of_arrays: Of those that are given as arrays, where it is another number.
    """
    count = 0
    for source in sources:
        try:
            picture = read_image(source, (of_arrays or channels) if isinstance(source, np.ndarray) else channels)
        except DSMoEError as e:
            logging.getLogger("ultralytics").warning(f"image skipped: {e}")
            continue
        count += 1
        yield source, picture
    if not count:
        raise DataError("images", f"at least one picture of {channels} channels that can be read", "none")


def _read_file(path: Path, channels: int) -> np.ndarray:
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as e:
        raise DataError(str(path), "a picture file", e.strerror or type(e).__name__) from e
    image = _decode(data, channels) if data.size else None
    if image is None:
        raise DataError(str(path), "a picture that OpenCV reads", f"{data.size} bytes that are none")
    image = image if image.ndim == 3 else image[..., None]
    if image.shape[2] != channels:
        raise DataError(str(path), f"a picture of {channels} channels", f"{image.shape[2]}")
    return image


def _decode(data: np.ndarray, channels: int) -> np.ndarray | None:
    """Return a picture; beside gray and colour as it is in the file, where the pages of a TIFF are channels."""
    if channels in (1, 3):
        return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR)
    several, pages = cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED)
    stacked = several and len(pages) > 1 and len({page.shape for page in pages}) == 1 and pages[0].ndim == 2
    image: np.ndarray | None = np.stack(pages, axis=2) if stacked else cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    return image if image is None or image.dtype != np.uint16 else (image // 256).astype(np.uint8)


def letterbox(image: np.ndarray, size: tuple[int, int], stride: int | None = None) -> np.ndarray:
    """Scale an image into a frame with its proportions kept, in the middle of gray bars.

    Args:
        image: (H, W, C), uint8.
        size: Height and width of the frame, pixels.
        stride: Cut the bars down to multiples of it, as dynamic graphs permit; None keeps the frame.

    Returns:
        (height, width, C), uint8.
    """
    height, width = _scaled(image.shape[:2], size)
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        image = image if image.ndim == 3 else image[..., None]  # OpenCV drops a single channel
    down, right = size[0] - height, size[1] - width
    if stride is not None:
        down, right = down % stride, right % stride
    top, left = round(down / 2 - EDGE), round(right / 2 - EDGE)
    frame = np.full((height + down, width + right, image.shape[2]), LETTERBOX_GRAY, np.uint8)
    frame[top : top + height, left : left + width] = image
    return frame


def unletterbox(boxes: np.ndarray, frame: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """Return boxes (M, 4) x1, y1, x2, y2 of a letterboxed frame in pixels of the image, (H, W) = ``shape``."""
    height, width = _scaled(shape, frame)
    left, top = round((frame[1] - width) / 2 - EDGE), round((frame[0] - height) / 2 - EDGE)
    gain_x, gain_y = width / shape[1], height / shape[0]
    boxes = (boxes - np.array([left, top, left, top], np.float32)) / np.array([gain_x, gain_y] * 2, np.float32)
    return boxes.clip(0, np.array([shape[1], shape[0]] * 2, np.float32))


def _scaled(shape: tuple[int, ...], frame: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width that an image takes within a frame."""
    gain = min(frame[0] / shape[0], frame[1] / shape[1])
    return max(round(shape[0] * gain), 1), max(round(shape[1] * gain), 1)


def network_input(
    images: list[np.ndarray],
    size: tuple[int, int],
    *,
    batch: int | None = None,
    stride: int | None = None,
    dtype: np.dtype | type = np.float32,
) -> np.ndarray:
    """Return images as the network takes them.

    Args:
        images: Each (H, W, C), uint8, BGR.
        size: Height and width of the network's input, pixels.
        batch: Images that it takes at once; missing ones are filled up with empty ones. None for any number.
        stride: Cut the letterbox's bars down to multiples of it where all images have one shape, as the host does for
            dynamic graphs; None keeps the size.
        dtype: Of the result.

    Returns:
        (B, C, height, width) in [0, 1], three channels as RGB.
    """
    if len({image.shape for image in images}) > 1:
        stride = None
    frames = np.stack([letterbox(image, size, stride) for image in images]).transpose(0, 3, 1, 2)
    frames = frames[:, ::-1] if frames.shape[1] == 3 else frames
    missing = max((batch or 0) - len(images), 0)
    frames = np.pad(frames, ((0, missing), (0, 0), (0, 0), (0, 0)))
    return np.ascontiguousarray(frames).astype(dtype) / np.dtype(dtype).type(LEVELS)


def select(
    prediction: np.ndarray, conf: float, iou: float, max_det: int, agnostic: bool = False, final: bool = False
) -> np.ndarray:
    """Choose the detections of one image.

    Args:
        prediction: (4 + K, A), centre, width and height in pixels and K scores per anchor; or (M, 6) detections that
            the file has selected itself: corners, score, class.
        conf: Lowest score, exclusive.
        iou: Overlap from which the weaker of two boxes goes.
        max_det: How many stay at most.
        agnostic: Compare boxes across classes too.
        final: Whether the prediction is of the second form.

    Returns:
        (M, 6), float32: x1, y1, x2, y2, score, class; strongest first unless the file has put them in order.
    """
    if final:
        return prediction[prediction[:, 4] > conf][:max_det].astype(np.float32)
    rows = prediction.T.astype(np.float32)  # (A, 4 + K)
    rows = rows[rows[:, 4:].max(1) > conf]
    classes, scores = rows[:, 4:].argmax(1), rows[:, 4:].max(1)
    half = rows[:, 2:4] / 2
    boxes = np.concatenate([rows[:, :2] - half, rows[:, :2] + half], 1)
    order = np.argsort(-scores, kind="stable")[:MAX_BOXES]
    boxes, scores, classes = boxes[order], scores[order], classes[order].astype(np.float32)
    kept = _suppress(boxes if agnostic else boxes + classes[:, None] * np.float32(CLASS_OFFSET), iou, max_det)
    return np.concatenate([boxes[kept], scores[kept, None], classes[kept, None]], 1)


def _suppress(boxes: np.ndarray, iou: float, max_det: int) -> np.ndarray:
    """Return the indices of the boxes (M, 4), strongest first, that no stronger kept box overlaps by more than iou."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = np.arange(len(boxes))
    kept: list[int] = []
    while len(left) and len(kept) < max_det:
        first, left = left[0], left[1:]
        kept.append(first)
        corner = np.maximum(boxes[left, :2], boxes[first, :2])
        sides = (np.minimum(boxes[left, 2:], boxes[first, 2:]) - corner).clip(0)
        common = sides[:, 0] * sides[:, 1]
        union = areas[left] + areas[first] - common
        with np.errstate(invalid="ignore"):  # boxes without area overlap nothing: 0/0 is not above any limit
            left = left[~(common / union > iou)]
    return np.array(kept, dtype=int)
