"""Conversion from Pascal VOC: boxes by hand, groups kept together, faults named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.convert.voc import convert_voc
from ultra_dsmoe.errors import DataError

WriteVoc = Callable[..., None]
DEALT = ["05", "07"]  # boards of the validation images by the seed of the paper


def stems(root: Path, split: str) -> set[str]:
    return {f.stem for f in (root / "images" / split).iterdir()}


@pytest.fixture
def source(tmp_path: Path, write_voc: WriteVoc) -> Path:
    """Ten boards with two images each."""
    for board in range(1, 11):
        for i in (1, 2):
            write_voc(tmp_path / "voc", f"{board:02d}_spur_{i:02d}")
    return tmp_path / "voc"


def test_boxes_and_classes_by_hand(source: Path, tmp_path: Path) -> None:
    root = convert_voc("pcb", source, root=tmp_path / "set")
    label = next(root.glob("labels/*/01_spur_01.txt")).read_text()
    assert label == "4 0.200000 0.200000 0.200000 0.200000\n"  # (10+30)/2/100, (20+60)/2/200, 20/100, 40/200
    data = yaml.safe_load((root / "data.yaml").read_text())
    assert data["names"][4] == "spur"
    assert data["test"] == "images/test"


def test_boards_stay_together_in_the_asked_shares(source: Path, tmp_path: Path) -> None:
    root = convert_voc("pcb", source, root=tmp_path / "set")
    parts = {s: stems(root, s) for s in ("train", "val", "test")}
    assert {s: len(p) for s, p in parts.items()} == {"train": 12, "val": 4, "test": 4}
    boards = [{stem[:2] for stem in p} for p in parts.values()]
    assert not boards[0] & boards[1]
    assert not boards[0] & boards[2]
    assert not boards[1] & boards[2]
    for split, names in parts.items():
        assert {f.stem for f in (root / "labels" / split).iterdir()} == names


def test_seed_decides_the_split(source: Path, tmp_path: Path) -> None:
    one, two, three = (convert_voc("pcb", source, seed=s, root=tmp_path / n) for s, n in ((1, "a"), (1, "b"), (2, "c")))
    assert stems(one, "train") == stems(two, "train") != stems(three, "train")


def test_group_can_be_given_and_two_shares_make_no_test(source: Path, tmp_path: Path) -> None:
    root = convert_voc("pcb", source, ratio=(1, 1), group=r"_(\d+)$", root=tmp_path / "set")
    assert {s[-2:] for s in stems(root, "train")} != {s[-2:] for s in stems(root, "val")}
    assert len({s[-2:] for s in stems(root, "train")}) == 1
    assert not (root / "images" / "test").exists()


def test_rotated_copies_of_the_same_name_are_left_out(source: Path, tmp_path: Path) -> None:
    (source / "rotation" / "Spur_rotation").mkdir(parents=True)
    copy = source / "rotation" / "Spur_rotation" / "01_spur_01.jpg"
    cv2.imwrite(str(copy), np.full((100, 200), 255, np.uint8))
    root = convert_voc("pcb", source, root=tmp_path / "set")
    image = cv2.imread(str(next(root.glob("images/*/01_spur_01.jpg"))))
    assert image.shape == (200, 100, 3)


def test_box_beyond_the_rim_is_cut_to_the_image(tmp_path: Path, write_voc: WriteVoc) -> None:
    for i in range(3):
        write_voc(tmp_path / "voc", f"{i}_spur", "Spur", (-10, 100, 50, 230))
    root = convert_voc("pcb", tmp_path / "voc", root=tmp_path / "set")
    assert next(root.glob("labels/train/*.txt")).read_text() == "4 0.250000 0.750000 0.500000 0.500000\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "cat"}, "expected classes missing_hole, .*, got cat"),
        ({"box": (30, 20, 30, 60)}, "xmin < xmax"),
        ({"box": (1, 2, "x", 4)}, "a Pascal VOC file with size and boxes"),
    ],
)
def test_faults_in_a_label_name_the_file(
    change: dict[str, Any], message: str, source: Path, tmp_path: Path, write_voc: WriteVoc
) -> None:
    write_voc(source, "11_spur_01", **change)
    with pytest.raises(DataError, match=rf"11_spur_01\.xml: expected.*{message}|{message}"):
        convert_voc("pcb", source, root=tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_label_without_image_and_unreadable_label(source: Path, tmp_path: Path) -> None:
    extra = source / "Annotations" / "Spur" / "12_spur_01.xml"
    extra.write_text("<annotation>")
    with pytest.raises(DataError, match=r"12_spur_01\.xml: expected one image of this name, got 0"):
        convert_voc("pcb", source, root=tmp_path / "set")
    cv2.imwrite(str(source / "images" / "Spur" / "12_spur_01.jpg"), np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match=r"12_spur_01\.xml: expected a Pascal VOC file"):
        convert_voc("pcb", source, root=tmp_path / "set")


def test_data_yaml_is_the_packaged_one_but_for_the_place(source: Path, tmp_path: Path) -> None:
    root = convert_voc("pcb", source, root=tmp_path / "set")
    there, ours = yaml.safe_load((root / "data.yaml").read_text()), packaged.load("pcb")
    assert {k: v for k, v in there.items() if k not in packaged.PLACE} == {
        k: v for k, v in ours.items() if k not in packaged.PLACE
    }
    assert {"prompts", "taxonomy", "groups"} <= set(there)
    assert {k: v for k, v in there.items() if k in packaged.PLACE} == {
        s: f"images/{s}" for s in ("train", "val", "test")
    }


def test_data_yaml_keeps_the_groups_that_were_given(source: Path, tmp_path: Path) -> None:
    root = convert_voc("pcb", source, ratio=(1, 1), group=r"_(\d+)$", root=tmp_path / "set")
    there = yaml.safe_load((root / "data.yaml").read_text())
    assert there["groups"] == r"_(\d+)$"
    assert "test" not in there


def test_a_data_yaml_of_ones_own_gives_classes_and_groups(source: Path, tmp_path: Path) -> None:
    own = {"names": {0: "scratch", 1: "spur"}, "groups": "^([0-9]+)_", "path": "elsewhere", "prompts": {"spur": ["x"]}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    root = convert_voc(str(tmp_path / "own.yaml"), source, root=tmp_path / "set")
    assert {f.read_text().split()[0] for f in root.glob("labels/*/*.txt")} == {"1"}
    assert not {s[:2] for s in stems(root, "train")} & {s[:2] for s in stems(root, "val") | stems(root, "test")}
    data = yaml.safe_load((root / "data.yaml").read_text())
    assert data["prompts"] == own["prompts"]
    assert "path" not in data
    with pytest.raises(DataError, match=r"^out: expected a folder to make"):
        convert_voc(str(tmp_path / "own.yaml"), source)


def test_groups_of_the_set_hold_for_every_set(tmp_path: Path, write_voc: WriteVoc) -> None:
    for number in range(30):  # of a steel strip, ten windows of one picture each
        write_voc(tmp_path / "voc", f"patches_{number}", "patches")
    root = convert_voc("neu-det", tmp_path / "voc", root=tmp_path / "set")
    tens = [{stem[:-1] for stem in stems(root, split)} for split in ("train", "val", "test")]
    assert sum(map(len, tens)) == len(set().union(*tens)) == 3


@pytest.mark.parametrize("seed", range(8))
def test_training_images_show_every_class_where_they_can(seed: int, tmp_path: Path, write_voc: WriteVoc) -> None:
    """Each of six classes is on one board of its own; two boards stay for val and test."""
    kinds = packaged.class_names(packaged.load("pcb"))
    for board, kind in enumerate(kinds):
        write_voc(tmp_path / "voc", f"{board}_x", kind)
        write_voc(tmp_path / "voc", f"{board + 6}_x", kind)
    root = convert_voc("pcb", tmp_path / "voc", ratio=(2, 1, 1), seed=seed, root=tmp_path / "set")
    shown = {f.read_text().split()[0] for f in (root / "labels" / "train").iterdir()}
    assert len(shown) == len(kinds)
    assert all(stems(root, split) for split in ("val", "test"))


def test_a_split_that_shows_every_class_stays_as_it_was_dealt(source: Path, tmp_path: Path) -> None:
    """Scores of a set that was converted before must stay comparable."""
    root = convert_voc("pcb", source, root=tmp_path / "set")
    assert sorted({stem[:2] for stem in stems(root, "val")}) == DEALT


@pytest.mark.parametrize("ratio", [(1,), (0, 1), (6, -2, 2), (1, 1, 1, 1)])
def test_bad_shares(ratio: tuple[int, ...], source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^split: expected two or three shares"):
        convert_voc("pcb", source, ratio=ratio, root=tmp_path / "set")


@pytest.mark.parametrize("group", ["(", "no_group", "(a)(b)"])
def test_bad_group(group: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^group: expected a regular expression"):
        convert_voc("pcb", source, group=group, root=tmp_path / "set")


def test_fewer_groups_than_splits_and_empty_folder(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 3 groups"):
        convert_voc("pcb", source, group="(spur)", root=tmp_path / "set")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=r"Pascal VOC \.xml files, got none"):
        convert_voc("pcb", tmp_path / "nothing", root=tmp_path / "set")
    assert not (tmp_path / "set").exists()
