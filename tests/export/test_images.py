"""Images of a split, evenly spread, as the predictor shows them to a net; drawn ones repeat."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ultra_dsmoe.errors import DataError
from ultra_dsmoe.export.images import drawn_images, load_images, split_images, spread


def test_files_of_a_split(tiny_boards: Path) -> None:
    files = split_images(tiny_boards)
    assert len(files) == 4
    assert all("val" in Path(f).parts for f in files)
    assert files == sorted(files)


def test_a_fraction_is_spread_over_the_split(tiny_boards: Path) -> None:
    files = split_images(tiny_boards, "train")
    assert split_images(tiny_boards, "train", 0.5) == [files[i] for i in (0, 2, 5, 7)]
    assert split_images(tiny_boards, "train", 3) == [files[i] for i in (0, 4, 7)]
    assert split_images(tiny_boards, "train", 2) == [files[0], files[7]]
    assert split_images(tiny_boards, "train", 1e-6) == files[:1]
    assert spread(["a", "b"], 5) == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "split", "message"),
    [
        (None, "val", "a data YAML with images in its 'val' split"),
        (
            "names: [spur]\ntrain: t\nval: v\n",
            "val",
            "a data YAML with images in its 'val' split, got .*images not found",
        ),
        (
            "names: [spur]\ntrain: empty\nval: empty\n",
            "val",
            "a data YAML with images in its 'val' split, got .*No images found",
        ),
        ("names: [spur]\ntrain: empty\nval: empty\n", "test", "a data YAML with a 'test' split"),
        ("names: [spur\n", "val", "a data YAML with images"),
    ],
)
def test_missing_images_are_one_line(tmp_path: Path, content: str | None, split: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    path = tmp_path / "data.yaml"
    if content is not None:
        path.write_text(f"path: {tmp_path}\n{content}")
    with pytest.raises(DataError, match=f"^data: expected {message}") as caught:
        split_images(path, split)
    assert "\n" not in str(caught.value)


def test_a_rectangle_is_letterboxed(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "white.png"), np.full((32, 32, 3), 255, np.uint8))
    (image,) = load_images([tmp_path / "white.png"], (32, 64))
    assert image.shape == (3, 32, 64)
    assert (image[:, :, 16:48] == 1).all()
    assert image[0, 5, 2] == pytest.approx(114 / 255)


def test_colours_come_as_red_green_blue_and_sides_as_height_and_width(tmp_path: Path) -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:, :, :] = (30, 90, 240)  # OpenCV's order: blue, green, red
    picture[:20] = (0, 255, 0)
    cv2.imwrite(str(tmp_path / "colours.png"), picture)
    images = load_images([tmp_path / "colours.png", tmp_path / "colours.png"], 40)
    assert images.shape == (2, 3, 40, 40)
    assert images.dtype == torch.float32
    assert torch.equal(images[0], images[1])
    torch.testing.assert_close(images[0, :, 30, 7], torch.tensor([240.0, 90, 30]) / 255)
    torch.testing.assert_close(images[0, :, 5, 7], torch.tensor([0.0, 1, 0]))


def test_what_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"^images: expected a picture, got .*text\.png$"):
        load_images([tmp_path / "text.png"], 32)
    with pytest.raises(DataError, match=r"^images: expected at least one path, got none$"):
        load_images([], 32)


def test_drawn_images_repeat_and_differ() -> None:
    images = drawn_images(3, (32, 64))
    assert images.shape == (3, 3, 32, 64)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(images, drawn_images(3, (32, 64)))
    assert not torch.equal(images, drawn_images(3, (32, 64), seed=1))
    assert not torch.allclose(images[0], images[1], atol=0.1)
    blocks = torch.nn.functional.avg_pool2d(drawn_images(20, (64, 64)), 8)  # the noise is gone, the discs are not
    assert blocks.flatten(2).std(-1).amax(1).min() > 0.05
