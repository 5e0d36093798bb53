"""Images of a split, evenly spread, as the predictor shows them to a net; drawn ones repeat."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from ultralytics.utils.patches import imread as host_imread

from ultra_dsmoe.errors import DataError
from ultra_dsmoe.export import images
from ultra_dsmoe.export.images import channels_of, drawn_images, image_batches, load_images, split_images, spread
from ultra_dsmoe.runtime.detections import read_image


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


def test_all_images_by_default_and_only_those_on_this_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, val = tmp_path / "data.yaml", tmp_path / "val"
    data.write_text(f"path: {tmp_path}\ntrain: val\nval: val\nnames: [spur]\n")
    asked: list[str] = []

    def fetch(name: str) -> dict[str, str]:
        asked.append(name)
        val.mkdir()
        for i in range(12):
            cv2.imwrite(str(val / f"{i:02}.png"), np.zeros((4, 4, 3), np.uint8))
        return {"val": str(val)}

    monkeypatch.setattr(images, "check_det_dataset", fetch)
    with pytest.raises(DataError, match="images not found"):
        split_images(data)
    assert asked == []
    assert len(split_images(data, download=True)) == 12
    assert asked == [str(data)]
    assert len(split_images(data, download=True)) == 12
    assert asked == [str(data)], "what is on this disk is not fetched"


def test_channels_of_a_net() -> None:
    nets = [
        SimpleNamespace(),
        SimpleNamespace(yaml=None),
        SimpleNamespace(yaml={}),
        SimpleNamespace(yaml={"channels": 1}),
    ]
    assert [channels_of(net) for net in nets] == [3, 3, 3, 1]


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
            "a data YAML with images in its 'val' split, got .*Error loading data",
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
    stack = load_images([tmp_path / "colours.png", tmp_path / "colours.png"], 40)
    assert stack.shape == (2, 3, 40, 40)
    assert stack.dtype == torch.float32
    assert torch.equal(stack[0], stack[1])
    torch.testing.assert_close(stack[0, :, 30, 7], torch.tensor([240.0, 90, 30]) / 255)
    torch.testing.assert_close(stack[0, :, 5, 7], torch.tensor([0.0, 1, 0]))


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_other_channels_are_read_as_in_the_host(tmp_path: Path, channels: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (24, 32, channels), np.uint8)
    path = tmp_path / "picture.tiff"
    pages = [np.ascontiguousarray(picture[..., i]) for i in range(channels)]
    assert cv2.imwritemulti(str(path), pages) if channels > 1 else cv2.imwrite(str(path), pages[0])
    flag = {1: cv2.IMREAD_GRAYSCALE}.get(channels, cv2.IMREAD_UNCHANGED)
    assert np.array_equal(read_image(path, channels), host_imread(str(path), flag))
    (image,) = load_images([path], (24, 32), channels)
    assert image.shape == (channels, 24, 32)
    np.testing.assert_allclose(image.permute(1, 2, 0) * 255, picture, atol=1e-4)


def test_unreadable_images_are_skipped_with_a_warning(
    tiny_boards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = split_images(tiny_boards)
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("text")
    cv2.imwrite(str(tmp_path / "rgb.png"), np.zeros((9, 9, 3), np.uint8))
    bad = [tmp_path / name for name in ("empty.png", "text.jpg", "gone.png")]
    mixed = [bad[0], good[0], bad[1], good[1], good[2], bad[2]]
    assert torch.equal(load_images(mixed, 64), load_images(good[:3], 64))
    assert [len(stack) for stack in image_batches(mixed, (64, 64), batch=2)] == [2, 1]
    assert caplog.text.count("image skipped: ") == 2 * len(bad)
    with pytest.raises(DataError, match="images: expected at least one picture of 3 channels that can be read"):
        load_images(bad, 64)
    with pytest.raises(DataError, match="at least one picture of 4 channels"):
        load_images([tmp_path / "rgb.png"], 64, 4)
    assert "expected a picture of 4 channels, got 3" in caplog.text


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_drawn_images_repeat_and_differ(channels: int) -> None:
    assert drawn_images(2, (32, 64), channels=channels).shape == (2, channels, 32, 64)
    stack = drawn_images(3, (32, 64))
    assert stack.dtype == torch.float32
    assert 0 <= stack.min() < stack.max() <= 1
    assert torch.equal(stack, drawn_images(3, (32, 64)))
    assert not torch.equal(stack, drawn_images(3, (32, 64), seed=1))
    assert not torch.allclose(stack[0], stack[1], atol=0.1)
    blocks = torch.nn.functional.avg_pool2d(drawn_images(20, (64, 64)), 8)  # the noise is gone, the discs are not
    assert blocks.flatten(2).std(-1).amax(1).min() > 0.05
