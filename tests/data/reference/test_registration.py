"""Registration by value, and the mismatch that tells right references from wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ultra_dsmoe.data.boards.demo import draw_board, draw_pair
from ultra_dsmoe.data.reference.registration import MISMATCH_LIMIT, QUALITY_LIMIT, laid_on, measured, mismatch, register

SIDE = 224


def colour(picture: np.ndarray) -> np.ndarray:
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)


def warped(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(picture, matrix, picture.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


def turned(picture: np.ndarray, degrees: float, x: float = 0, y: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture turned and moved, and the map from its pixels."""
    h, w = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D((w / 2, h / 2), degrees, 1)
    matrix[:, 2] += x, y
    return warped(picture, matrix), matrix


@pytest.fixture(scope="module")
def boards() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return images and their known-good boards."""
    drawn = (draw_pair(i, seed=5, size=SIDE) for i in range(6))
    return [(colour(board.image), colour(golden)) for board, golden in drawn]


@pytest.mark.parametrize("align", ["shift", "affine"])
@pytest.mark.parametrize("size", [(SIDE, SIDE), (150, SIDE), (1400, 1300)])  # the last is registered in smaller
def test_a_shift_is_found_in_pixels_of_the_image(align: str, size: tuple[int, int]) -> None:
    image = cv2.resize(colour(draw_board(0, size=640).image), size[::-1])
    moved = warped(image, np.array([[1, 0, 5.5], [0, 1, -3.25]]))
    found = register(image, moved, align)
    assert found.matrix.dtype == np.float32
    assert found.quality > 0.95
    np.testing.assert_allclose(found.matrix, [[1, 0, 5.5], [0, 1, -3.25]], atol=0.1)
    before, after = (np.abs(p.astype(int) - image).mean() for p in (moved, laid_on(image, moved, found.matrix)))
    assert after < before / 3


def test_an_affine_map_is_found_and_a_shift_is_not_enough(boards: list[tuple[np.ndarray, np.ndarray]]) -> None:
    image = boards[0][0]
    moved, matrix = turned(image, 2, 4, -3)
    found = register(image, moved, "affine")
    np.testing.assert_allclose(found.matrix[:, :2], matrix[:, :2], atol=0.004)
    np.testing.assert_allclose(found.matrix[:, 2], matrix[:, 2], atol=0.8)
    assert found.quality > register(image, moved, "shift").quality + 0.2


def test_what_lies_well_stays_as_it_is(boards: list[tuple[np.ndarray, np.ndarray]]) -> None:
    image = boards[0][0]
    for align in ("none", "shift", "affine"):
        found = register(image, image, align)
        assert found.quality == pytest.approx(1)
        np.testing.assert_array_equal(laid_on(image, image, found.matrix), image)


def test_the_image_stands_where_the_reference_does_not_reach() -> None:
    image, reference = np.full((6, 8, 3), 200, np.uint8), np.full((6, 8, 3), 90, np.uint8)
    laid = laid_on(image, reference, np.array([[1, 0, 2], [0, 1, -1]], np.float32))
    assert (laid[0] == 200).all()  # above the reference
    assert (laid[:, 6:] == 200).all()  # right of it
    assert (laid[1:, :6] == 90).all()


@pytest.mark.parametrize("channels", [1, 3, 5, 10])
def test_any_number_of_channels_is_moved_alike(channels: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, channels), dtype=np.uint8)
    laid = laid_on(picture, picture, np.array([[1, 0, 3], [0, 1, 2]], np.float32))
    assert np.array_equal(laid[:38, :47], picture[2:, 3:])


def test_golden_boards_lie_better_after_registration(boards: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for image, golden in boards:
        before, after = (register(image, golden, align).quality for align in ("none", "shift"))
        assert after >= before
        assert after > 0.8


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda p: p,
    "shifted": lambda p: warped(p, np.array([[1.0, 0, 3], [0, 1, -3]])),
    "brighter": lambda p: np.clip(p * 1.3, 0, 255).astype(np.uint8),
    "darker": lambda p: (p * 0.7).astype(np.uint8),
    "uneven light": lambda p: (p * np.linspace(0.5, 1, p.shape[1])[None, :, None]).astype(np.uint8),
    "blurred": lambda p: cv2.GaussianBlur(p, (0, 0), 2),
    "turned": lambda p: turned(p, 1)[0],
}


@pytest.mark.parametrize("change", CHANGES)
def test_mismatch_tells_a_board_from_another(boards: list[tuple[np.ndarray, np.ndarray]], change: str) -> None:
    for i, (image, _) in enumerate(boards):
        scores = [mismatch(image, CHANGES[change](golden)) for _, golden in boards]
        assert scores.index(min(scores)) == i
        assert scores[i] < MISMATCH_LIMIT < min(scores[:i] + scores[i + 1 :])


def test_a_wrong_reference_cannot_be_laid_on_the_image(boards: list[tuple[np.ndarray, np.ndarray]]) -> None:
    qualities = [register(boards[i][0], boards[i - 1][1], "affine").quality for i in range(len(boards))]
    assert max(qualities) < QUALITY_LIMIT


@pytest.mark.parametrize("align", ["none", "shift", "affine"])
def test_registration_does_not_make_a_wrong_reference_right(
    boards: list[tuple[np.ndarray, np.ndarray]], align: str
) -> None:
    """Where a map found by chance leaves the image's own pixels, both would be the same."""
    for i, (image, golden) in enumerate(boards):
        assert measured(image, golden, align).mismatch < MISMATCH_LIMIT
        assert measured(image, boards[i - 1][1], align).mismatch > MISMATCH_LIMIT


def test_mismatch_of_pictures_without_structure() -> None:
    flat, noise = np.full((64, 64, 3), 120, np.uint8), np.random.default_rng(0).normal(60, 3, (64, 64, 3))
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[::8] = 255
    assert mismatch(flat, flat) == 0
    assert mismatch(flat, noise.astype(np.uint8)) < MISMATCH_LIMIT  # sensor noise is no product
    assert mismatch(flat, lines) > 0.9
    assert mismatch(lines[:1, :1], lines[:1, :1]) == 0  # of any size


@pytest.mark.realdata
def test_mismatch_on_real_boards(shared_data: Callable[[str], Path]) -> None:
    images, golden = (shared_data(name).parent / "images" for name in ("DeepPCB-mini", "DeepPCB-templates"))
    pairs = []
    for file in sorted(images.rglob("*.jpg")):
        image, own = (cv2.imread(str(f)) for f in (file, golden / file.parent.name / f"{file.stem}.png"))
        assert image is not None
        assert own is not None
        pairs.append((image, own))
    right = [mismatch(image, CHANGES["shifted"](CHANGES["darker"](own))) for image, own in pairs]
    wrong = [mismatch(pairs[i][0], pairs[i - 7][1]) for i in range(len(pairs))]
    assert max(right) < MISMATCH_LIMIT < min(wrong)
