"""Pictures to the network's input and predictions to boxes: against the host's own functions, and by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from ultralytics.data.augment import LetterBox
from ultralytics.utils import nms, ops

from ultra_dsmoe.errors import DataError, ShapeError
from ultra_dsmoe.runtime.detections import letterbox, network_input, read_image, select, unletterbox

COLOUR = (30, 90, 240)  # blue, green, red


def picture(height: int = 20, width: int = 30, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height + width).integers(0, 256, (height, width, channels), np.uint8)


# pictures -------------------------------------------------------------------------------------------------------------


def test_files_as_opencv_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "ö.png"  # OpenCV's own reader fails on such names on some systems
    path.write_bytes(cv2.imencode(".png", np.full((4, 6, 3), COLOUR, np.uint8))[1].tobytes())
    assert read_image(path).tolist() == np.full((4, 6, 3), COLOUR).tolist()
    gray = read_image(str(path), 1)
    assert gray.shape == (4, 6, 1)
    assert gray[0, 0, 0] == round(0.114 * COLOUR[0] + 0.587 * COLOUR[1] + 0.299 * COLOUR[2])


@pytest.mark.parametrize(
    ("shape", "channels"), [((4, 6), 1), ((4, 6), 3), ((4, 6, 1), 3), ((4, 6, 3), 3), ((4, 6, 5), 5)]
)
def test_arrays_that_fit_or_repeat(shape: tuple[int, ...], channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    got = read_image(image, channels)
    assert got.shape == (4, 6, channels)
    assert np.array_equal(got, np.broadcast_to(image.reshape(4, 6, -1), got.shape))


def test_arrays_of_other_colours_and_depths() -> None:
    colour = np.full((4, 6, 3), COLOUR, np.uint8)
    with_alpha = np.concatenate([colour, np.full((4, 6, 1), 7, np.uint8)], 2)
    assert np.array_equal(read_image(with_alpha), colour)
    assert np.array_equal(read_image(with_alpha, 1), read_image(colour, 1))
    deep = colour.astype(np.uint16) * 256 + 255
    assert np.array_equal(read_image(deep), colour)


@pytest.mark.parametrize(
    ("image", "channels"),
    [
        (np.zeros((4, 6, 3)), 3),
        (np.zeros((4, 6, 2), np.uint8), 3),
        (np.zeros((0, 6, 3), np.uint8), 3),
        (np.zeros(4, np.uint8), 3),
        (np.zeros((1, 4, 6, 3), np.uint8), 3),
    ],
)
def test_arrays_that_are_no_picture(image: np.ndarray, channels: int) -> None:
    with pytest.raises(ShapeError, match=r"^image: expected uint8 of shape \(H, W, 3\), BGR, or \(H, W\), got "):
        read_image(image, channels)


def test_channels_that_cannot_be_made() -> None:
    with pytest.raises(ShapeError, match=r"^image: expected 5 channels, got 3$"):
        read_image(picture(), 5)


def test_files_that_are_no_picture(tmp_path: Path) -> None:
    for content in (b"", b"text"):
        (tmp_path / "x.png").write_bytes(content)
        with pytest.raises(DataError, match=rf"x\.png: expected a picture that OpenCV reads, got {len(content)} bytes"):
            read_image(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"gone\.png: expected a picture file, got No such file"):
        read_image(tmp_path / "gone.png")


# frames ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(20, 30), (31, 20), (64, 64), (1, 200), (200, 3), (100, 149), (33, 64)])
@pytest.mark.parametrize("frame", [(64, 64), (32, 96)])
def test_letterbox_and_back_are_the_hosts(shape: tuple[int, int], frame: tuple[int, int]) -> None:
    image = picture(*shape)
    got = letterbox(image, frame)
    assert np.array_equal(got, LetterBox(frame, auto=False, stride=32)(image=image))
    cut = letterbox(image, frame, 32)
    assert np.array_equal(cut, LetterBox(frame, auto=True, stride=32)(image=image))
    boxes = np.random.default_rng(1).uniform(-5, 100, (9, 4)).astype(np.float32)
    wanted = ops.scale_boxes(frame, torch.from_numpy(boxes.copy()), shape).numpy()
    np.testing.assert_allclose(unletterbox(boxes, frame, shape), wanted, atol=1e-4)


def test_network_input_by_hand() -> None:
    images = [np.full((32, 32, 3), COLOUR, np.uint8), np.full((32, 64, 3), COLOUR, np.uint8)]
    batch = network_input(images, (32, 64), batch=3, stride=32, dtype=np.float16)
    assert (batch.shape, batch.dtype) == ((3, 3, 32, 64), np.float16)
    np.testing.assert_allclose(batch[0, :, 5, 20], np.array(COLOUR[::-1]) / 255, atol=1e-3)  # red first
    np.testing.assert_allclose(batch[0, :, 5, 2], 114 / 255, atol=1e-3)
    assert not batch[2].any()
    assert batch.flags["C_CONTIGUOUS"]
    assert network_input(images[:1], (64, 64), stride=32).shape == (1, 3, 64, 64)
    assert network_input([images[1]] * 2, (64, 64), stride=32).shape == (2, 3, 32, 64)  # one shape: bars are cut
    assert network_input([images[1]] * 2, (64, 64)).shape == (2, 3, 64, 64)
    five = np.arange(5, dtype=np.uint8) * np.ones((8, 8, 1), np.uint8)
    np.testing.assert_allclose(network_input([five], (8, 8))[0, :, 0, 0], np.arange(5) / 255)  # kept in order


# selection ------------------------------------------------------------------------------------------------------------


def predictions(classes: int = 3, anchors: int = 300, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([rng.uniform(10, 90, (2, anchors)), rng.uniform(5, 40, (2, anchors))])
    return np.concatenate([boxes, rng.uniform(0, 1, (classes, anchors)) ** 3]).astype(np.float32)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize(
    ("conf", "iou", "most"), [(0.25, 0.7, 300), (0.001, 0.45, 300), (0.5, 0.1, 300), (0.1, 0.9, 7)]
)
def test_selection_is_the_hosts(agnostic: bool, conf: float, iou: float, most: int) -> None:
    prediction = predictions()
    (wanted,) = nms.non_max_suppression(
        torch.from_numpy(prediction[None].copy()), conf, iou, agnostic=agnostic, max_det=most
    )
    got = select(prediction, conf, iou, most, agnostic)
    assert got.dtype == np.float32
    assert 0 < len(got) <= most
    np.testing.assert_allclose(got, wanted.numpy(), atol=1e-4)


def test_selection_by_hand() -> None:
    rows = [  # centre, size, two scores
        [10, 10, 8, 8, 0.9, 0.1],
        [11, 10, 8, 8, 0.8, 0.1],  # overlaps the first by 7/9
        [11, 10, 8, 8, 0.1, 0.7],  # so does this one, of the other class
        [40, 40, 0, 0, 0.6, 0.0],  # no area, twice
        [40, 40, 0, 0, 0.5, 0.0],
        [80, 80, 8, 8, 0.25, 0.0],  # at the limit, which is exclusive
    ]
    prediction = np.array(rows, np.float32).T
    kept = select(prediction, 0.25, 0.7, 300)
    np.testing.assert_allclose(kept[:, 4], [0.9, 0.7, 0.6, 0.5])
    assert kept[:, 5].tolist() == [0, 1, 0, 0]
    assert kept[0, :4].tolist() == [6, 6, 14, 14]
    assert len(select(prediction, 0.25, 0.7, 300, agnostic=True)) == 3
    assert len(select(prediction, 0.25, 0.8, 300)) == 5
    assert len(select(prediction, 0.25, 0.7, 2)) == 2
    assert select(prediction, 0.95, 0.7, 300).shape == (0, 6)


def test_what_the_file_selected_itself_keeps_its_order() -> None:
    rows = np.array([[0, 0, 1, 1, s, c] for s, c in ((0.3, 1), (0.9, 0), (0.25, 2), (0.5, 1))])
    assert select(rows, 0.25, 0.7, 300, final=True)[:, 4].tolist() == pytest.approx([0.3, 0.9, 0.5])
    assert select(rows, 0.25, 0.7, 2, final=True).shape == (2, 6)
    assert select(rows, 0.25, 0.7, 2, final=True).dtype == np.float32
