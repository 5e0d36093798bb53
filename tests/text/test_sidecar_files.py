"""Sidecars and tables: what they may hold, and what is wrong with others, in one line."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hit_pictures import write_image

from ultra_dsmoe.errors import DataError
from ultra_dsmoe.text.sidecar_files import (
    Pictures,
    Table,
    as_record,
    checked,
    content_of,
    pixels,
    read_sidecar,
    record_picture,
    set_root,
)

PICTURE = np.zeros((4, 6, 3), np.uint8)


def checked_text(tmp_path: Path, text: str) -> dict[str, object]:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode())
    return checked(path, read_sidecar(path))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{}", {}),
        ('{"vlm": " a dot ", "llm": "", "record": {}}', {"vlm": "a dot"}),
        ('{"record": {"mu_x": 1, " sd ": 2.5}}', {"record": {"mu_x": 1.0, "sd": 2.5}}),
        ('\ufeff{"record_image": "cards/a.png", "llm": null}', {"record_image": "cards/a.png"}),
        ('{"record": {"aspect": 2}, "source": {"image": "scratch_1.jpg"}}', {"record": {"aspect": 2.0}}),
        ('{"version": "5.0", "shapes": [], "imagePath": "a.png"}', {}),  # another program's file
    ],
)
def test_what_a_sidecar_says(tmp_path: Path, text: str, found: dict[str, object]) -> None:
    assert checked_text(tmp_path, text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vlm: a dot", r"a.json: expected a JSON file \{vlm, llm, record\}, got "),
        ("[" * 100_000, r"a.json: expected a JSON file"),
        ('["vlm"]', r"a.json: expected a mapping \{vlm, llm, record\}, got a list$"),
        ('{"vlm": 3}', r"a.json: vlm: expected a text, got 3$"),
        ('{"llm": ["a"]}', r"a.json: llm: expected a text, got \['a'\]$"),
        ('{"record_image": 1}', r"a.json: record_image: expected a text, got 1$"),
        ('{"record": [1]}', r"a.json: record: expected a mapping of names to numbers, got \[1\]$"),
        ('{"record": {"mu_x": "1"}}', r"a.json: record mu_x: expected a finite number, got 1$"),
        ('{"record": {"mu_x": true}}', r"a.json: record mu_x: expected a finite number, got True$"),
        ('{"record": {"mu_x": NaN}}', r"a.json: record mu_x: expected a finite number, got nan$"),
        ('{"record": {" ": 1}}', r"a.json: record: expected names that are texts, got "),
        (
            '{"record": {"Class": 1}}',
            r"a.json: record: expected recorded numbers, without what the class is, got Class$",
        ),
        ('{"records": {"mu_x": 1}}', r"a.json: expected keys .*did you mean 'record'\?\), got records$"),
    ],
)
def test_a_bad_sidecar_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        checked_text(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_sidecar_of_bytes_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"a.json: expected a JSON file"):
        read_sidecar(tmp_path / "a.json")


def make_root(tmp_path: Path, table: str | None = None) -> tuple[Path, Path]:
    image = write_image(tmp_path / "set" / "train" / "spot" / "a.png", PICTURE)
    if table is not None:
        (tmp_path / "set" / "texts.csv").write_bytes(table.encode())
    return tmp_path / "set", image


def test_what_a_table_says(tmp_path: Path) -> None:
    lines = ["image,vlm,llm,mu_x,hits", 'train/spot/a.png,"a dot, pink",,1.5,30', r"train\spot\b.png,,few,,", ",,,,"]
    root, image = make_root(tmp_path, "\ufeff" + "\r\n".join(lines))
    table = Table.read(root)
    assert table.of(image) == {"vlm": "a dot, pink", "record": {"mu_x": 1.5, "hits": 30.0}}
    assert table.of(image.with_name("b.png")) == {"llm": "few"}
    assert table.of(image.with_name("c.png")) == {}
    assert Table.read(tmp_path).rows == {}, "no table is no fault"


def test_rows_without_an_image_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, _ = make_root(tmp_path, "image,vlm\ntrain/spot/a.png,x\nspot/a.png,y\n")
    with caplog.at_level(logging.WARNING, "ultra_dsmoe.text"):
        Table.read(root)
    assert "names 1 images that are not there, such as spot/a.png" in caplog.text


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", r"texts.csv: expected a column image, got an empty file$"),
        ("file,vlm\na,b\n", r"texts.csv: expected a column image, got file, vlm$"),
        ("image,vlm,vlm\n", r"texts.csv: expected each column once, got 'vlm' twice$"),
        ("image,vlm\na.png,x\n./a.png,y\n", r"texts.csv line 3: expected each image once, got a.png twice$"),
        ("image,mu\na.png,left\n", r"texts.csv line 2: mu: expected a number, got left$"),
        ("image,mu\na.png,inf\n", r"texts.csv line 2 mu: expected a finite number, got inf$"),
        (
            "image,label\na.png,1\n",
            r"texts.csv line 2: expected recorded numbers, without what the class is, got label$",
        ),
        ("image,vlm\na.png,x,y\n", r"texts.csv line 2: expected 2 cells, got 3$"),
        ("image,vlm\n,x\n", r"texts.csv line 2: expected the path of an image, got none$"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path: Path, table: str, message: str) -> None:
    root, _ = make_root(tmp_path, table)
    with pytest.raises(DataError, match=message) as caught:
        Table.read(root)
    assert "\n" not in str(caught.value)


def test_a_table_of_bytes_is_one_line(tmp_path: Path) -> None:
    root, _ = make_root(tmp_path)
    (root / "texts.csv").write_bytes(b"image\n\xff\xfe")
    with pytest.raises(DataError, match=r"texts.csv: expected a table with commas in UTF-8"):
        Table.read(root)


def test_the_root_holds_train(tmp_path: Path) -> None:
    root, image = make_root(tmp_path)
    assert set_root(image) == root
    inner = write_image(root / "train" / "train" / "b.png", PICTURE)  # a class of that name
    (root / "texts.csv").write_text("image,vlm\ntrain/train/b.png,a locomotive\n")
    assert set_root(inner) == root
    assert set_root(tmp_path / "elsewhere" / "c.png") is None


def test_where_the_picture_of_a_record_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, image = make_root(tmp_path)
    with pytest.raises(DataError, match=r"a.png: expected a record, or a picture of it .*, got neither$"):
        record_picture(image, {})
    card = write_image(root / "records" / "train" / "spot" / "a.png", PICTURE)
    assert record_picture(image, {}) == card
    monkeypatch.chdir(tmp_path)  # as the command line is given it
    assert record_picture(image.relative_to(tmp_path), {}) == card
    other = write_image(root / "train" / "spot" / "cards" / "x.png", PICTURE)
    assert record_picture(image, {"record_image": "cards/x.png"}) == other
    with pytest.raises(DataError, match=r"got no .*gone.png$"):
        record_picture(image, {"record_image": "gone.png"})
    odd = write_image(root / "train" / "spot" / "a[1].png", PICTURE)
    with pytest.raises(DataError, match="got neither"):
        record_picture(odd, {})


def test_pixels_are_red_green_blue(tmp_path: Path) -> None:
    image = PICTURE.copy()
    image[..., 0] = 200
    path = write_image(tmp_path / "a.png", image)
    np.testing.assert_array_equal(pixels(path, content_of(path)), image)
    pictures = Pictures([path, path])
    assert len(list(pictures)) == len(list(pictures)) == 2


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_what_is_no_image_is_one_line(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"x.png: expected an image that can be read, got another file$"):
        pixels(Path("x.png"), content)
    with pytest.raises(DataError, match=r"gone.png: expected an image that can be read, got No such file"):
        content_of(tmp_path / "gone.png")


def test_records_are_plain_floats() -> None:
    assert as_record("r", {"a": 1}) == {"a": 1.0}
    assert as_record("r", None) is None
    assert json.dumps(as_record("r", {"a": np.float64(2)})) == '{"a": 2.0}'
