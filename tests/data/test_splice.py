"""Turned and spliced images: what is drawn lies in its box, nothing else does; only training images are used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from ultra_dsmoe.commands import run
from ultra_dsmoe.data.labelled import Piece
from ultra_dsmoe.data.splice import combine, splice, splice_set, turn
from ultra_dsmoe.errors import DataError, DSMoEError

SHADES = {0: 255, 1: 120}  # how bright the defects of a class are drawn, on black


def drawn(height: int, width: int, *boxes: tuple[int, int, int, int, int]) -> Piece:
    """Return a black image with filled boxes (class, x1, y1, x2, y2) that do not touch."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for kind, x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = SHADES[kind]
    table = np.array(boxes).reshape(-1, 5)
    return Piece(pixels, table[:, 0], table[:, 1:].astype(float))


def assert_labels_fit(piece: Piece) -> None:
    """Compare the picture with one that is drawn from the boxes alone."""
    boxes = np.concatenate([piece.classes[:, None], np.rint(piece.boxes_xyxy_px)], 1).astype(int)
    np.testing.assert_allclose(piece.boxes_xyxy_px, boxes[:, 1:], atol=1e-3)
    assert np.array_equal(drawn(*piece.size, *map(tuple, boxes)).pixels, piece.pixels)
    assert (boxes[:, 3:] > boxes[:, 1:3]).all()


UPRIGHT = drawn(40, 60, (0, 5, 3, 25, 13), (1, 40, 20, 58, 38))


def test_turning_by_hand() -> None:
    by_hand = {1: [[3, 35, 13, 55], [20, 2, 38, 20]], 2: [[35, 27, 55, 37], [2, 2, 20, 20]],
               3: [[27, 5, 37, 25], [2, 40, 20, 58]], 4: UPRIGHT.boxes_xyxy_px}  # fmt: skip
    for quarters, boxes in by_hand.items():
        turned = turn(UPRIGHT, quarters)
        assert turned.size == ((60, 40) if quarters % 2 else (40, 60))
        assert np.array_equal(turned.boxes_xyxy_px, boxes)
        assert turned.classes.tolist() == [0, 1]
        assert_labels_fit(turned)


def test_splicing_by_hand() -> None:
    other = drawn(40, 60, (1, 2, 2, 8, 8), (0, 30, 10, 50, 30))
    made = splice(UPRIGHT, other, 20, across=False)
    assert made is not None
    assert made.classes.tolist() == [0, 0]  # the other's small one lies before the seam
    assert made.boxes_xyxy_px.tolist() == [[5, 3, 20, 13], [30, 10, 50, 30]]
    assert_labels_fit(made)
    below = splice(UPRIGHT, other, 15, across=True)
    assert below is not None
    assert below.boxes_xyxy_px.tolist() == [[5, 3, 25, 13], [30, 15, 50, 30]]
    assert_labels_fit(below)


@pytest.mark.parametrize(
    ("seam", "as_first", "as_second"), [(30, True, True), (31, False, True), (34, False, True), (35, True, True),
                                        (45, True, True), (46, True, False), (49, True, False), (50, True, True)]
)  # fmt: skip
def test_a_seam_leaves_no_sliver(seam: int, as_first: bool, as_second: bool) -> None:
    """Of a box from 30 to 50 a quarter stays, 5 px, or nothing: what is drawn never goes without a label."""
    whole, empty = drawn(40, 60, (0, 30, 10, 50, 30)), drawn(40, 60)
    assert (splice(whole, empty, seam, across=False) is not None) == as_first
    assert (splice(empty, whole, seam, across=False) is not None) == as_second


@pytest.mark.parametrize(
    "second", [drawn(40, 60, (1, 1, 1, 20, 39)), drawn(60, 40, (0, 10, 30, 30, 50)), drawn(30, 30)]
)
def test_combined_images_are_labelled_right(second: Piece) -> None:
    """Partners upright, lying, and of a size that suits no way: then the image itself is the partner."""
    made = [combine(UPRIGHT, second, np.random.default_rng(seed)) for seed in range(40)]
    for piece in made:
        assert piece.size in ((40, 60), (60, 40))
        assert_labels_fit(piece)
    assert len({piece.pixels.tobytes() for piece in made}) > 10
    assert not any(np.array_equal(piece.pixels, UPRIGHT.pixels) for piece in made)


def test_an_image_that_no_seam_suits_is_turned_alone() -> None:
    full = drawn(40, 40, *((0, x, y, x + 7, y + 7) for x in range(0, 40, 8) for y in range(0, 40, 8)))
    made = [combine(full, full, np.random.default_rng(seed)) for seed in range(5)]
    for piece in made:
        assert_labels_fit(piece)


@pytest.fixture
def a_set(tmp_path: Path) -> Path:
    """Write four training images, three of which show dents, and a validation image."""
    root = tmp_path / "given"
    pieces = [UPRIGHT, turn(UPRIGHT, 1), drawn(40, 60, (0, 8, 8, 28, 28)), drawn(40, 60, (1, 20, 20, 50, 30))]
    for split, members in (("train", pieces), ("val", [drawn(40, 60, (0, 30, 20, 55, 35))])):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for i, piece in enumerate(members):
            cv2.imwrite(str(root / "images" / split / f"{split}_{i}.png"), piece.pixels)
            (root / "labels" / split / f"{split}_{i}.txt").write_text("\n".join(piece.label_lines()))
    content = {"path": str(root), "train": "images/train", "val": "images/val", "names": ["dent", "hole"],
               "prompts": {"dent": ["a bright dent"]}, "download": "raise SystemExit"}  # fmt: skip
    (root / "given.yaml").write_text(yaml.safe_dump(content))
    return root / "given.yaml"


def read(root: Path, stem: str) -> Piece:
    pixels = cv2.imread(str(root / "images" / "train" / f"{stem}.png"))
    table = np.loadtxt(root / "labels" / "train" / f"{stem}.txt", ndmin=2).reshape(-1, 5)
    h, w = pixels.shape[:2]
    centres, half = table[:, 1:3], table[:, 3:] / 2
    return Piece(pixels, table[:, 0], np.concatenate([centres - half, centres + half], 1) * [w, h, w, h])


def test_a_set_is_written_with_more_images(a_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(["data", "splice", str(a_set), "--class", "dent", "--add", "7", "--out", str(out)]) == 0
    said = f"dent: 7 spliced images among the training images; train with data={out / 'data.yaml'}\n"
    assert capsys.readouterr().out == said
    names = sorted(p.stem for p in (out / "images" / "train").iterdir())
    assert names == [*(f"spliced_dent_{i:05d}" for i in range(7)), *(f"train_{i}" for i in range(4))]
    assert sorted(p.stem for p in (out / "labels" / "train").iterdir()) == names
    shown = [read(out, name) for name in names[:7]]
    for piece in shown:
        assert_labels_fit(piece)
    assert sum(0 in piece.classes for piece in shown) >= 5
    for split, count in (("train", 4), ("val", 1)):
        for i in range(count):
            for file in (f"images/{split}/{split}_{i}.png", f"labels/{split}/{split}_{i}.txt"):
                assert (out / file).read_bytes() == (a_set.parent / file).read_bytes()
    assert len(list((out / "images" / "val").iterdir())) == 1
    content = yaml.safe_load((out / "data.yaml").read_text())
    assert content.pop("channels", 3) == 3  # newer hosts name it
    assert content == {"train": "images/train", "val": "images/val", "names": {0: "dent", 1: "hole"},
                       "prompts": {"dent": ["a bright dent"]}}  # fmt: skip
    run(["data", "splice", str(a_set), "--class", "dent", "--add", "7", "--out", str(tmp_path / "again")])
    for file in (*(out / "images").rglob("*.png"), *(out / "labels").rglob("*.txt")):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(out)).read_bytes()


def test_by_itself_a_class_is_doubled_and_a_second_one_may_follow(a_set: Path, tmp_path: Path) -> None:
    first = splice_set(a_set, "dent", tmp_path / "one", seed=1)
    assert len(list((first.parent / "images" / "train").iterdir())) == 4 + 3
    second = splice_set(first, "hole", tmp_path / "two", seed=1)
    assert len(list((second.parent / "images" / "train").iterdir())) == 4 + 3 + 3, "spliced images are no sources"
    with pytest.raises(DataError, match="data: expected a set without spliced images of dent, got spliced_dent_00000"):
        splice_set(second, "dent", tmp_path / "three")
    assert not (tmp_path / "three").exists()


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("words", "change", "message"),
    [
        (["--class", "dnet"], None, r"class: expected one of dent, hole \(did you mean 'dent'\?\), got dnet"),
        (["--class", "dent", "--add", "0"], None, "add: expected a positive integer, got 0"),
        (["--class", "rust"], lambda d: d["names"].append("rust"), "class: expected a class that training images"),
        (["--class", "dent"], lambda d: d.update(train="gone"), "data: expected readable images in its .train. split"),
        (["--class", "dent"], lambda d: d.update(val="gone"), "data: expected a data YAML whose images are there"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], change: Change | None, message: str, a_set: Path, tmp_path: Path
) -> None:
    content = yaml.safe_load(a_set.read_text())
    content.pop("download")
    if change:
        change(content)
    a_set.write_text(yaml.safe_dump(content))
    with pytest.raises(DSMoEError, match=message) as e:
        run(["data", "splice", str(a_set), *words, "--out", str(tmp_path / "out")])
    assert "\n" not in str(e.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["given"]


def test_a_folder_in_use_is_left_alone(a_set: Path) -> None:
    with pytest.raises(DataError, match="expected a new or empty folder"):
        splice_set(a_set, "dent", a_set.parent)
