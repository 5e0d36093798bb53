"""Regions of masks by hand: touching and near parts, specks, and every kind of file that masks come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ultra_dsmoe.data.convert.regions import colours, find_regions, foreground, image_size, values
from ultra_dsmoe.errors import DataError

SHOWN = {(2, 3): 1, (4, 5): 2}  # (row, column) of the two lit pixels, and their numbers


def mask_of(*blocks: tuple[int, int, int, int], size: tuple[int, int] = (20, 30)) -> np.ndarray:
    """Return a mask with blocks given by x0, y0, x1, y1, the latter behind the last pixel."""
    mask = np.zeros(size, bool)
    for x0, y0, x1, y1 in blocks:
        mask[y0:y1, x0:x1] = True
    return mask


def numbered() -> np.ndarray:
    """Return 8x8 numbers, two of them above 0."""
    pixels = np.zeros((8, 8), np.uint8)
    for place, number in SHOWN.items():
        pixels[place] = number
    return pixels


def test_a_rectangle_is_its_own_box() -> None:
    boxes, specks = find_regions(mask_of((3, 4, 9, 6)))
    assert boxes.tolist() == [[3, 4, 9, 6]]
    assert specks == 0


def test_an_empty_mask_has_no_box() -> None:
    boxes, specks = find_regions(mask_of())
    assert boxes.shape == (0, 4)
    assert specks == 0


def test_two_blobs_are_two_boxes_and_touching_ones_are_one() -> None:
    assert find_regions(mask_of((0, 0, 4, 4), (6, 0, 9, 4)))[0].tolist() == [[0, 0, 4, 4], [6, 0, 9, 4]]
    assert find_regions(mask_of((0, 0, 4, 4), (4, 2, 9, 6)))[0].tolist() == [[0, 0, 9, 6]]
    assert find_regions(mask_of((0, 0, 4, 4), (4, 4, 9, 6)))[0].tolist() == [[0, 0, 9, 6]]  # by a corner


def test_a_blob_inside_the_box_of_another_stays_its_own() -> None:
    ring = mask_of((0, 0, 9, 9)) & ~mask_of((1, 1, 8, 8))
    assert find_regions(ring | mask_of((3, 4, 5, 6)))[0].tolist() == [[0, 0, 9, 9], [3, 4, 5, 6]]


@pytest.mark.parametrize("gap", [1, 2, 3, 4])
@pytest.mark.parametrize("way", ["right", "down", "slant", "rim"])
def test_parts_with_fewer_pixels_than_join_between_them_are_one(gap: int, way: str) -> None:
    x0 = 24 - gap if way == "rim" else 2
    first = (x0, 2, x0 + 3, 5)
    move = {"right": (3 + gap, 0), "down": (0, 3 + gap), "slant": (3 + gap, 3 + gap), "rim": (3 + gap, 0)}[way]
    second = (first[0] + move[0], first[1] + move[1], first[2] + move[0], first[3] + move[1])
    mask = mask_of(first, second)
    assert find_regions(mask, join=gap)[0].tolist() == [list(first), list(second)]
    assert find_regions(mask, join=gap + 1)[0].tolist() == [[first[0], first[1], second[2], second[3]]]


def test_a_join_wider_than_the_mask_makes_one_region() -> None:
    corners = mask_of((0, 0, 1, 1), (29, 19, 30, 20))
    assert find_regions(corners, join=28)[0].tolist() == [[0, 0, 1, 1], [29, 19, 30, 20]]
    for join in (29, 10**9):
        assert find_regions(corners, join=join)[0].tolist() == [[0, 0, 30, 20]]


def test_specks_are_left_out_and_counted_after_joining() -> None:
    mask = mask_of((0, 0, 2, 2), (10, 10, 11, 11), (13, 10, 14, 11), (25, 1, 28, 2))
    assert find_regions(mask, min_area=4)[0].tolist() == [[0, 0, 2, 2]]
    assert find_regions(mask, min_area=4)[1] == 3
    boxes, specks = find_regions(mask, join=3, min_area=2)  # the pixels of the gap do not count
    assert boxes.tolist() == [[0, 0, 2, 2], [25, 1, 28, 2], [10, 10, 14, 11]]
    assert specks == 0
    assert find_regions(mask, join=3, min_area=3)[1] == 1


def saved(folder: Path, kind: str) -> Path:
    """Write the two numbers as a mask file of some kind."""
    pixels, file = numbered(), folder / f"{kind}.png"
    if kind == "grey":
        image = Image.fromarray(pixels)
    elif kind == "deep":
        image = Image.fromarray(pixels.astype(np.uint16))
    elif kind == "palette":
        image = Image.fromarray(pixels, "P")
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    elif kind == "grey-rgb":
        image = Image.fromarray(np.repeat(pixels[..., None], 3, 2))
    elif kind == "colour":
        image = Image.fromarray(np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)[pixels])
    elif kind == "bits":
        image = Image.fromarray(pixels > 0)
    else:
        image, file = Image.fromarray(pixels), folder / f"{kind}.tif"
    image.save(file)
    return file


KINDS = ["grey", "deep", "palette", "grey-rgb", "colour", "bits", "tiff"]


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("kind", KINDS)
def test_foreground_of_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    assert {tuple(p) for p in np.argwhere(foreground(saved(tmp_path, kind))[0])} == set(SHOWN)


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("kind", ["grey", "deep", "palette", "grey-rgb", "tiff"])
def test_values_are_the_numbers_of_the_file(kind: str, tmp_path: Path) -> None:
    assert (values(saved(tmp_path, kind)) == numbered()).all()


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("kind", ["colour", "palette"])
def test_colours_are_those_of_the_file(kind: str, tmp_path: Path) -> None:
    expected = np.array([0, 0xFF0000, 0x00FF00])[numbered()]
    assert (colours(saved(tmp_path, kind)) == expected).all()


def test_black_of_a_palette_is_background_whatever_its_number(tmp_path: Path) -> None:
    image = Image.fromarray(np.where(numbered() > 0, 0, 255).astype(np.uint8)).convert("P")
    image.putpalette([255, 255, 255] + 254 * [9, 9, 9] + [0, 0, 0])
    image.save(tmp_path / "p.png")
    assert {tuple(p) for p in np.argwhere(foreground(tmp_path / "p.png")[0])} == set(SHOWN)


def test_what_jpeg_smears_is_background(tmp_path: Path) -> None:
    mask = mask_of((5, 6, 15, 14))
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "a.jpg", quality=80)
    assert ((np.asarray(Image.open(tmp_path / "a.jpg")) > 0) != mask).any()
    assert (foreground(tmp_path / "a.jpg")[0] == mask).all()
    assert foreground(tmp_path / "a.jpg")[1] == set()


def test_a_palette_without_colours_has_its_numbers(tmp_path: Path) -> None:
    image = Image.fromarray(numbered()).convert("P")
    image.putpalette(768 * [0])
    image.save(tmp_path / "p.png")
    seen, numbers = foreground(tmp_path / "p.png")
    assert {tuple(p) for p in np.argwhere(seen)} == set(SHOWN)
    assert numbers == {"1", "2"}


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [("grey", {"1", "2"}), ("deep", {"1", "2"}), ("grey-rgb", {"1", "2"}), ("colour", {"#ff0000", "#00ff00"})],
)
def test_the_numbers_of_a_mask_are_told(kind: str, numbers: set[str], tmp_path: Path) -> None:
    assert foreground(saved(tmp_path, kind))[1] == numbers


INK, PAPER = (0, 0, 0), (255, 255, 255)


@pytest.mark.parametrize(
    ("lit", "rest"),
    [
        ((*INK, 255), (*INK, 0)),  # what is opaque is the mask
        ((*PAPER, 255), (*INK, 0)),
        ((*INK, 255), (*PAPER, 0)),
        ((*PAPER, 255), (*PAPER, 0)),
        ((*PAPER, 255), (*INK, 255)),
        ((*PAPER, 128), (*INK, 128)),
        ((*INK, 255), (*INK, 40)),
        ((255, 0, 0, 9), (*INK, 255)),
    ],
)
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_background(
    lit: tuple[int, ...], rest: tuple[int, ...], mode: str, tmp_path: Path
) -> None:
    pixels = np.where(numbered()[..., None] > 0, lit, rest).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
    assert {tuple(p) for p in np.argwhere(foreground(tmp_path / "a.png")[0])} == set(SHOWN)


@pytest.mark.parametrize("alpha", [0, 255])
def test_a_black_mask_is_empty_however_opaque(alpha: int, tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, alpha)).save(tmp_path / "a.png")
    assert not foreground(tmp_path / "a.png")[0].any()


def test_transparent_pixels_tell_no_class(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[2, 3], pixels[4, 5] = (2, 2, 2, 255), (3, 3, 3, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for read, number in ((values, 2), (colours, 0x020202)):
        assert np.argwhere(read(tmp_path / "a.png")).tolist() == [[2, 3]]
        assert read(tmp_path / "a.png")[2, 3] == number


def test_size_is_that_of_the_picture_as_it_is_shown(tmp_path: Path) -> None:
    image, exif = Image.new("L", (30, 20)), Image.Exif()
    image.save(tmp_path / "a.jpg")
    exif[0x0112] = 6
    image.save(tmp_path / "b.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == (20, 30)
    assert image_size(tmp_path / "b.jpg") == (30, 20)


# errors


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + 40 * b"\0"])
def test_damaged_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    for read in (foreground, values, colours, image_size):
        with pytest.raises(DataError, match=r"a\.png: expected a picture that OpenCV reads, got [^\n]+$"):
            read(tmp_path / "a.png")


def test_a_mask_that_is_cut_off_is_not_taken_in_part(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"  # which OpenCV before 5 reads as far as it goes
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"a\.jpg: expected a (mask that can be read|picture that OpenCV reads)"):
        foreground(file)


def test_files_without_exact_numbers(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.jpg")
    for read in (values, colours):
        with pytest.raises(DataError, match=r"a\.jpg: expected a mask in a format without loss.*got JPEG"):
            read(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"expected a mask of grey values.*got colours"):
        values(saved(tmp_path, "colour"))
    with pytest.raises(DataError, match="more than 8 bits"):
        colours(saved(tmp_path, "deep"))


def test_masks_that_cannot_be_seen(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (9, 9, 9, 0)).save(tmp_path / "a.png")
    for read in (foreground, values, colours):
        with pytest.raises(
            DataError, match=r"a\.png: expected a mask that can be seen, got one that is transparent all"
        ):
            read(tmp_path / "a.png")
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[2, 3] = (0, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "b.png")
    for read in (values, colours):
        with pytest.raises(
            DataError, match=r"b\.png: expected a mask whose values tell classes, got one that is black"
        ):
            read(tmp_path / "b.png")
