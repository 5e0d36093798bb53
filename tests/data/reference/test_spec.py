"""What a user says about references: every form, options of two places together, and what is no form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ultra_dsmoe.data.reference.spec import ReferenceSpec, read_spec
from ultra_dsmoe.errors import ConfigError

GRAY = np.arange(12, dtype=np.uint8).reshape(3, 4)


def read(value: Any, root: Path = Path(), base: ReferenceSpec | None = None) -> ReferenceSpec:
    spec = read_spec("reference", value, root, base)
    assert spec is not None
    return spec


@pytest.mark.parametrize("value", [None, False, "none", "None", " false "])
def test_nothing_is_no_references(value: Any) -> None:
    assert read_spec("reference", value, Path()) is None


@pytest.mark.parametrize(
    ("value", "place", "path"),
    [
        ("golden", "folder", "golden"),
        ("../golden/v1.2", "folder", "../golden/v1.2"),  # what looks like an ending is none of a picture
        ("pairs.csv", "csv", "pairs.csv"),
        ("golden.PNG", "file", "golden.PNG"),
        ({"folder": "a"}, "folder", "a"),
        ({"csv": "a.txt"}, "csv", "a.txt"),
        ("{file: a.png, align: shift}", "file", "a.png"),
    ],
)
def test_paths_start_from_the_root(value: Any, place: str, path: str, tmp_path: Path) -> None:
    spec = read(value, tmp_path)
    assert getattr(spec, place) == (tmp_path / path).resolve()
    assert sum(getattr(spec, name) is not None for name in ("folder", "csv", "pattern", "file", "image")) == 1


def test_a_folder_named_like_a_picture_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "golden.png").mkdir()
    assert read("golden.png", tmp_path).folder == tmp_path / "golden.png"


def test_a_pattern_keeps_its_template(tmp_path: Path) -> None:
    spec = read({"pattern": r"^(.*)_(?P<side>\d)$", "file": "golden/{1}-{side}.png"}, tmp_path)
    assert spec.pattern == r"^(.*)_(?P<side>\d)$"
    assert spec.file == tmp_path / "golden" / "{1}-{side}.png"


def test_options_of_the_data_hold_where_the_key_names_a_place_alone(tmp_path: Path) -> None:
    base = read({"folder": "a", "missing": "blank", "align": "shift"}, tmp_path)
    assert (read("b", tmp_path, base).missing, read("b", tmp_path, base).align) == ("blank", "shift")
    assert (read({"folder": "b", "align": "none"}, tmp_path, base)).align == "none"
    assert read(GRAY, tmp_path, base).missing == "blank"
    only = read({"align": "affine"}, tmp_path, base)  # the place is the data's
    assert (only.folder, only.align, only.missing) == (tmp_path / "a", "affine", "blank")


def test_arrays_and_pil_images_are_pictures() -> None:
    colour = np.dstack([GRAY, GRAY + 1, GRAY + 2])
    assert read(colour).image is colour
    assert np.array_equal(read(Image.fromarray(colour)).image, colour[..., ::-1])  # type: ignore[arg-type]
    assert np.array_equal(read(Image.fromarray(GRAY)).image, GRAY)  # type: ignore[arg-type]


def test_state_is_plain_and_reads_back(tmp_path: Path) -> None:
    spec = read({"pattern": "(a)", "file": "{1}.png", "missing": "blank"}, tmp_path)
    assert json.loads(json.dumps(spec.state())) == spec.state()
    assert read(spec.state(), Path("/elsewhere")).file == spec.file
    assert read(GRAY).state()["image"] == [3, 4]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "reference: expected a folder, a .csv file, a picture, or {pattern: ..., file: ...}, got 7"),
        (True, "reference: expected a folder, .*, got True"),
        ("", "reference: expected a folder, .*, got"),
        ([], "reference: expected a folder, .*, got"),
        ("{file: [}", "reference: expected a folder, .*, got {file: "),
        ({"foldr": "a"}, r"reference: expected keys out of .*\(did you mean 'folder'\?\), got foldr"),
        ({"folder": "a", "file": "b.png"}, "reference: expected one place: .*, got folder, file"),
        ({"align": "shift"}, "reference: expected one place: folder, csv, file, or pattern and file, got none of them"),
        ({"folder": 3}, "reference.folder: expected text, got 3"),
        (
            {"folder": "a", "align": "rotate"},
            "reference.align: expected one of none, shift, affine, got rotate",
        ),
        ({"folder": "a", "missing": "blnk"}, r"reference.missing: expected one of .*did you mean 'blank'"),
        ({"pattern": "(a)"}, "reference: expected a file beside the pattern, such as .*, got none"),
        ({"pattern": "(a", "file": "{1}.png"}, "reference.pattern: expected a regular expression, got"),
        ({"pattern": "^a", "file": "{1}.png"}, "reference.pattern: expected at least one group in parentheses, got"),
        (
            {"pattern": "(a)", "file": "{2}.png"},
            r"reference.file: expected a template .*\{1\}, got .*\{2\}\.png",
        ),
        ({"pattern": "(a)", "file": "a.png"}, "reference.file: expected a template with groups of the pattern"),
        (
            GRAY.astype(np.float32),
            r"reference: expected an array .* uint8 or uint16, got float32 of \(3, 4\)",
        ),
        (GRAY[0], r"reference: expected an array .*, got uint8 of \(4,\)"),
        (GRAY[:0], r"reference: expected an array .*, got uint8 of \(0, 4\)"),
    ],
)
def test_what_cannot_be_meant_is_one_line(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(value)
    assert "\n" not in str(caught.value)
