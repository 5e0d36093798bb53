"""Which reference belongs to an image, and places that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ultra_dsmoe.data.reference.references import References
from ultra_dsmoe.data.reference.spec import read_spec
from ultra_dsmoe.errors import DataError, DSMoEError

SIZE = (12, 8)  # width, height


def put(*files: Path, size: tuple[int, int] = SIZE) -> list[Path]:
    """Write pictures with structure."""
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(file.name)).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    return list(files)


def references(value: Any, root: Path) -> References:
    spec = read_spec("reference", value, root)
    assert spec is not None
    return References(spec, 3)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return put(*(tmp_path / "images" / split / f"{name}.jpg" for split in ("train", "val") for name in ("a_1", "b_2")))


def test_a_flat_folder_serves_by_name_whatever_the_ending(tmp_path: Path, images: list[Path]) -> None:
    a, b = put(tmp_path / "golden" / "a_1.png", tmp_path / "golden" / "b_2.bmp")
    found = references("golden", tmp_path)
    found.require(images)
    assert [found.find(image) for image in images] == [a, b, a, b]


def test_sub_folders_mirror_those_of_the_images(tmp_path: Path, images: list[Path]) -> None:
    """A picture of the same name in the other split is another product's."""
    golden = put(*(tmp_path / "g" / name for name in ("train/a_1.png", "val/a_1.png", "val/b_2.png")))
    found = references("g", tmp_path)
    assert [found.find(image) for image in images] == [golden[0], None, golden[1], golden[2]]


@pytest.mark.parametrize("layout", ["images/{}/a_1.jpg", "{}/images/a_1.jpg", "images/{}/camera 1/a_1.jpg"])
@pytest.mark.parametrize("golden", ["g/train", "g/train/camera 1"])
def test_a_reference_of_another_split_is_none(tmp_path: Path, layout: str, golden: str) -> None:
    train, val = put(*(tmp_path / layout.format(split) for split in ("train", "val")))
    (good,) = put(tmp_path / golden / "a_1.png")
    found = references("g", tmp_path)
    assert (found.find(train), found.find(val)) == (good, None)
    with pytest.raises(DataError, match=r"got 1 of 1 missing \(a_1.jpg\)"):
        found.require([val])


def test_names_of_splits_above_images_and_references_say_nothing(tmp_path: Path) -> None:
    image, good = put(tmp_path / "test" / "parts" / "a.jpg", tmp_path / "test" / "g" / "train" / "a.png")
    assert references("test/g", tmp_path).find(image) == good
    assert references("test/g", tmp_path).find(put(tmp_path / "test" / "valid" / "a.jpg")[0]) is None
    (valid,) = put(tmp_path / "test" / "g" / "val" / "a.png")
    assert references("test/g", tmp_path).find(tmp_path / "test" / "valid" / "a.jpg") == valid


def test_one_reference_in_a_sub_folder_for_images_of_two_folders_is_refused(tmp_path: Path) -> None:
    images = put(tmp_path / "images" / "lot 1" / "a.jpg", tmp_path / "images" / "lot 2" / "a.jpg")
    put(tmp_path / "g" / "product" / "a.png")
    with pytest.raises(DataError, match=r"a reference for each of .*lot 1.a.jpg and .*lot 2.a.jpg, got product.a.png"):
        references("g", tmp_path).require(images)
    references("g", tmp_path).require(images[:1])


def test_sub_folders_of_products_mirror_nothing(tmp_path: Path, images: list[Path]) -> None:
    a, b = put(tmp_path / "g" / "product 1" / "a_1.png", tmp_path / "g" / "product 2" / "b_2.png")
    assert [references("g", tmp_path).find(image) for image in images[:2]] == [a, b]


def test_a_pattern_names_one_picture_per_product(tmp_path: Path, images: list[Path]) -> None:
    a, b = put(tmp_path / "g" / "a-1.png", tmp_path / "g" / "b-2.png")
    found = references({"pattern": r"^(.*)_(?P<n>\d)$", "file": "g/{1}-{n}.png"}, tmp_path)
    assert [found.find(image) for image in images[:2]] == [a, b]
    assert found.find(tmp_path / "c_3.jpg") is None
    assert found.find(tmp_path / "other.jpg") is None


def test_one_file_for_all(tmp_path: Path, images: list[Path]) -> None:
    (golden,) = put(tmp_path / "golden.png")
    assert {references("golden.png", tmp_path).find(image) for image in images} == {golden}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_as_other_programs_write_it(tmp_path: Path, images: list[Path], delimiter: str) -> None:
    a, b = put(tmp_path / "g" / "x.png", tmp_path / "lists" / "y.png")
    rows = [("Nr", "Image", "Reference "), ("1", "train/a_1.jpg", "g\\x.png"), ("2", "b_2.jpg", "y.png"), ("", "", "")]
    text = "\r\n".join(delimiter.join(row) for row in rows[:-1]) + "\r\n\r\n"
    (tmp_path / "lists" / "pairs.csv").write_bytes(text.encode("utf-8-sig"))
    found = references("lists/pairs.csv", tmp_path)
    assert [found.find(image) for image in images] == [a, b, None, b]  # from the root, or else from the file's folder


def test_a_table_may_know_images_that_nobody_asks_for_now(tmp_path: Path, images: list[Path]) -> None:
    put(tmp_path / "g.png")
    rows = [f"{image.relative_to(tmp_path)},g.png" for image in images]
    (tmp_path / "pairs.csv").write_text("\n".join(["image,reference", *rows]))
    references("pairs.csv", tmp_path).require(images[:2])
    (tmp_path / "pairs.csv").write_text("\n".join(["image,reference", "a_1.jpg,g.png", "b_2.jpg,g.png"]))
    references("pairs.csv", tmp_path).require(images[:1])


def table(text: str) -> Any:
    return lambda root: (root / "pairs.csv").write_text(text)


def test_a_typo_in_a_table_is_no_blank_reference(tmp_path: Path, images: list[Path]) -> None:
    (tmp_path / "pairs.csv").write_text("image,reference\na_1.jpg,gone.png\n")
    found = references({"csv": "pairs.csv", "missing": "blank"}, tmp_path)
    assert found.find(images[1]) is None, "an image that the table does not know may go without"
    with pytest.raises(DataError, match=r"got 1 in .* that are not"):
        found.require(images)
    with pytest.raises(DataError, match=r"got 1 in .* that are not"):
        found.load(images[0])


def test_a_table_of_bare_names_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "set" / "train" / "a.jpg", tmp_path / "set" / "val" / "b.jpg", tmp_path / "g.png")
    (tmp_path / "pairs.csv").write_text("image,reference\na.jpg,g.png\nb.jpg,g.png\n")
    monkeypatch.chdir(tmp_path / "set" / "train")
    references(tmp_path / "pairs.csv", tmp_path).require(["a.jpg"])  # the other one is that of a folder beside it


WRONG = [
    pytest.param(
        "nowhere", lambda root: None, "a folder with known-good pictures, got .*nowhere, no such folder", id="no folder"
    ),
    pytest.param(
        {"folder": "file.txt"},
        lambda root: (root / "file.txt").touch(),
        "file.txt, which is none",
        id="no folder but a file",
    ),
    pytest.param(
        "empty",
        lambda root: (root / "empty").mkdir(),
        "a folder with known-good pictures, got .*, none in it",
        id="empty",
    ),
    pytest.param(
        "g",
        lambda root: put(root / "g/a_1.png", root / "g/a_1.jpg", root / "g/b_2.png"),
        "one reference for a_1.jpg, got a_1.jpg and a_1.png in ",
        id="two endings",
    ),
    pytest.param(
        "g",
        lambda root: put(root / "g/p/a_1.png", root / "g/q/a_1.png", root / "g/b_2.png"),
        "one reference for a_1.jpg, got p/a_1.png and q/a_1.png in ",
        id="two folders",
    ),
    pytest.param(
        "g",
        lambda root: put(root / "g/a_1.png"),
        r"a reference for each image \(or missing: blank\), got 2 of 4 missing "
        r"\(b_2.jpg, b_2.jpg\)",
        id="missing",
    ),
    pytest.param(
        {"pattern": "^(x)", "file": "{1}.png"},
        lambda root: None,
        r"got 4 of 4 missing \(a_1.jpg, b_2.jpg, a_1.jpg, ...\)",
        id="more than three missing",
    ),
    pytest.param("golden.png", lambda root: None, "a picture, got .*golden.png, no such file", id="no file"),
    pytest.param(
        "golden.png",
        lambda root: (root / "golden.png").write_text("no"),
        "a picture that can be read, got",
        id="no picture",
    ),
    pytest.param(
        "golden.png",
        lambda root: put(root / "golden.png", size=(12, 9)),
        r"a reference of the product size of a_1.jpg, 12x8, got 12x9 \(.*golden.png\)",
        id="another size",
    ),
    pytest.param("pairs.csv", lambda root: None, "a CSV file, got", id="no CSV"),
    pytest.param(
        "pairs.csv", lambda root: (root / "pairs.csv").write_bytes(b"\xff\xfe\x00"), "a CSV file, got", id="no text"
    ),
    pytest.param(
        "pairs.csv",
        table("picture,golden\na_1.jpg,g.png\n"),
        "columns image and reference, got picture, golden in",
        id="columns",
    ),
    pytest.param("pairs.csv", table(""), "columns image and reference, got nothing in", id="empty CSV"),
    pytest.param(
        "pairs.csv",
        table("image,reference\na_1.jpg,\n"),
        "an image and a reference in each line, got line 2 of",
        id="half a line",
    ),
    pytest.param(
        "pairs.csv",
        table("image,reference\na_1.jpg,g.png\na_1.jpg,h.png\n"),
        "each image once, got a_1.jpg twice in",
        id="twice",
    ),
    pytest.param(
        "pairs.csv",
        table("image,reference\na_1.jpg,g.png\ntrain/a_1.jpg,h.png\n"),
        "each image once, got a_1.jpg, train/a_1.jpg in",
        id="twice by two names",
    ),
    pytest.param(
        "pairs.csv",
        table("image,reference\na_1.jpg,g.png\nz.jpg,g.png\n"),
        r"a CSV of images that are there, got 1 others in .*\(z.jpg\)",
        id="unknown image",
    ),
    pytest.param(
        "pairs.csv",
        table("image,reference\na_1.jpg,gone.png\nb_2.jpg,gone.png\n"),
        r"a CSV of references that are there, got 1 in .*pairs.csv that are not \(gone.png\)",
        id="row without a file",
    ),
]


@pytest.mark.parametrize(("value", "make", "message"), WRONG)
def test_what_is_wrong_is_one_line_before_any_work(
    value: Any, make: Any, message: str, tmp_path: Path, images: list[Path]
) -> None:
    make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DSMoEError, match=f"^reference: expected .*{message}") as caught:
        references(value, tmp_path).require(images)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_references_of_a_packaged_set_answer_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultra_dsmoe.data import packaged

    monkeypatch.chdir(tmp_path)
    root = packaged.images_root("deeppcb-ref")
    with pytest.raises(
        DataError, match=r"get them with: dsmoe-yolo data unpack deeppcb-ref DeepPCB-templates\.tar, got"
    ):
        references(packaged.load("deeppcb-ref")["reference"], root).require([root / "images" / "val" / "a.jpg"])
