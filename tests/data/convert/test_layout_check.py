"""A folder in YOLO layout: where its data.yaml may lie, which classes, images and labels it must have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.convert.layout_check import check_layout, find_root
from ultra_dsmoe.errors import DataError

NAMES = packaged.class_names(packaged.load("deeppcb"))


def check(root: Path) -> None:
    check_layout(root, packaged.load("deeppcb"), "set.tar")


def refused(root: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        check(root)
    assert str(caught.value).startswith("set.tar")


def test_root_at_the_top_or_in_the_only_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "deeper").mkdir(parents=True)
    (tmp_path / "a" / "deeper" / "data.yaml").touch()
    with pytest.raises(
        DataError, match=r"^set\.tar: expected one data\.yaml, at the top or in the top folder, got none"
    ):
        find_root(tmp_path, "set.tar")
    (tmp_path / "a" / "data.yaml").touch()
    assert find_root(tmp_path, "set.tar") == tmp_path / "a"
    (tmp_path / "data.yaml").touch()
    with pytest.raises(DataError, match=r"got top, a$|got \., a$"):
        find_root(tmp_path, "set.tar")
    (tmp_path / "a" / "data.yaml").unlink()
    assert find_root(tmp_path, "set.tar") == tmp_path


def test_a_good_set(make_set: Callable[..., Path]) -> None:
    check(make_set())


@pytest.mark.parametrize("suffix", [".JPG", ".tiff", ".webp"])
def test_images_by_their_suffix(make_set: Callable[..., Path], suffix: str) -> None:
    root = make_set()
    (image,) = (root / "images" / "val").iterdir()
    image.rename(image.with_suffix(suffix))
    check(root)
    image.with_suffix(suffix).rename(image.with_suffix(".txt"))
    refused(root, r"expected images in images/val, got none$")


def test_classes_must_be_the_packaged_ones_in_order(make_set: Callable[..., Path]) -> None:
    turned = [NAMES[1], NAMES[0], *NAMES[2:]]
    root = make_set(names=turned)
    refused(root, rf"expected classes {', '.join(NAMES)} in this order, got {', '.join(turned)}$")
    (root / "data.yaml").write_text(yaml.safe_dump({"names": dict(enumerate(NAMES))}))
    check(root)  # a mapping of numbers is as good as a list


@pytest.mark.parametrize("content", ["names: [a\n", "\xff\xfe"])
def test_a_yaml_that_cannot_be_read(make_set: Callable[..., Path], content: str) -> None:
    root = make_set()
    (root / "data.yaml").write_bytes(content.encode("latin-1"))
    refused(root, r"expected a data\.yaml that can be read, got ")


@pytest.mark.parametrize("content", ["", "- a\n", "names: 3\n"])
def test_a_yaml_without_names(make_set: Callable[..., Path], content: str) -> None:
    root = make_set()
    (root / "data.yaml").write_text(content)
    with pytest.raises(DataError, match="names: expected a mapping of index to class name"):
        check(root)


@pytest.mark.parametrize("split", ["train", "val"])
def test_both_splits_need_labels(make_set: Callable[..., Path], split: str) -> None:
    root = make_set()
    for file in (root / "labels" / split).iterdir():
        file.unlink()
    refused(root, rf"expected label files in labels/{split}, got none$")


@pytest.mark.parametrize(
    "line",
    [
        "6 0.5 0.5 0.1 0.1",  # one class too many
        "-1 0.5 0.5 0.1 0.1",
        "spur 0.5 0.5 0.1 0.1",
        "0 0.5 0.5 0.1",
        "0 0.5 0.5 0.1 0.1 0.9",
        "0 0.5 0.5 0.1 1.01",
        "0 -0.01 0.5 0.1 0.1",
        "0 nan 0.5 0.1 0.1",
        "0 x 0.5 0.1 0.1",
        "",
    ],
)
def test_a_wrong_label_is_named_by_file_and_line(make_set: Callable[..., Path], line: str) -> None:
    root = make_set()
    (root / "labels" / "train" / "1.txt").write_text(f"5 0 1 1.0 0.25\n{line}\n0 0.5 0.5 0.1 0.1\n")
    refused(root, r"train/1\.txt line 2: expected a class from 0 to 5 and four numbers from 0 to 1, got ")


def test_an_image_without_defects_has_an_empty_file(make_set: Callable[..., Path]) -> None:
    root = make_set()
    (root / "labels" / "train" / "1.txt").write_text("")
    check(root)
