"""References of a set: loaded as the host loads images, blank, registered, measured once and kept."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ultralytics.utils import LOGGER

from ultra_dsmoe.data.boards.demo import draw_pair
from ultra_dsmoe.data.reference import prepared, references
from ultra_dsmoe.data.reference.in_force import current, in_force
from ultra_dsmoe.data.reference.references import References
from ultra_dsmoe.data.reference.registration import MISMATCH_LIMIT
from ultra_dsmoe.data.reference.spec import read_spec
from ultra_dsmoe.errors import DataError, DSMoEError
from ultra_dsmoe.evaluate.reference_choice import NoReferences
from ultra_dsmoe.runtime.reference_entry import PictureReference

SIDE = 160


@pytest.fixture(scope="module")
def drawn() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return colour images with their known-good boards."""
    pairs = ((board.image, golden) for board, golden in (draw_pair(i, size=SIDE) for i in range(9)))
    return [(image, golden) for image, golden in pairs if image.ndim == 3][:4]


@pytest.fixture
def files(tmp_path: Path, drawn: list[tuple[np.ndarray, np.ndarray]]) -> list[Path]:
    """Write four images and three references."""
    for folder in ("images/train", "golden"):
        (tmp_path / folder).mkdir(parents=True)
    for i, (image, golden) in enumerate(drawn):
        cv2.imwrite(str(tmp_path / f"images/train/{i}.png"), image)
        if i < 3:
            cv2.imwrite(str(tmp_path / f"golden/{i}.png"), golden)
    return sorted((tmp_path / "images" / "train").glob("*.png"))


def made(value: Any, root: Path, channels: int = 3) -> References:
    spec = read_spec("reference", value, root)
    assert spec is not None
    return References(spec, channels)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


def test_a_reference_comes_as_it_is_with_its_mismatch(
    tmp_path: Path, files: list[Path], drawn: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    loaded = made("golden", tmp_path).load(files[0])
    assert np.array_equal(loaded.pixels, drawn[0][1])
    assert loaded.mismatch is not None
    assert (loaded.quality, loaded.state) == (None, "ok")
    assert loaded.mismatch < MISMATCH_LIMIT
    assert made("golden", tmp_path).load(files[0], drawn[1][0]).mismatch > MISMATCH_LIMIT  # type: ignore[operator]


def test_a_missing_reference_is_an_error_or_blank(
    tmp_path: Path, files: list[Path], said: pytest.LogCaptureFixture
) -> None:
    strict, loose = made("golden", tmp_path), made({"folder": "golden", "missing": "blank"}, tmp_path)
    with pytest.raises(DataError, match=r"^reference: expected a reference for each image .* got none for .*3\.png"):
        strict.load(files[3])
    loose.require(files)
    assert "reference: 1 of 4 missing (3.png); they go with a blank reference" in said.text
    loaded = loose.load(files[3])
    assert (loaded.pixels.any(), loaded.mismatch, loaded.quality, loaded.state) == (False, None, None, "missing")
    assert loaded.pixels.shape == (SIDE, SIDE, 3)


def test_another_size_of_the_same_shape_is_resized(
    tmp_path: Path, files: list[Path], drawn: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    large = cv2.resize(drawn[0][1], (2 * SIDE, 2 * SIDE), interpolation=cv2.INTER_CUBIC)
    loaded = made(large, tmp_path).load(files[0])
    assert loaded.pixels.shape == (SIDE, SIDE, 3)
    assert np.abs(loaded.pixels.astype(int) - drawn[0][1]).mean() < 5
    with pytest.raises(DataError, match=r"^reference: .* product size of 0.png, 160x160, got 160x150 \(an array\)"):
        made(drawn[0][1][:150], tmp_path).load(files[0])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["gray", "colour", "alpha", "16 bit"])
def test_a_reference_of_any_kind_is_read_as_an_image_is(
    tmp_path: Path, files: list[Path], drawn: list[tuple[np.ndarray, np.ndarray]], channels: int, kind: str
) -> None:
    colour = drawn[0][1]
    gray = cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)
    kinds = {"gray": gray, "colour": colour, "alpha": np.dstack([colour, gray]), "16 bit": gray.astype(np.uint16) << 8}
    cv2.imwrite(str(tmp_path / "one.png"), kinds[kind])
    expected = gray[..., None] if channels == 1 else colour if kind in ("colour", "alpha") else np.dstack([gray] * 3)
    for value in ("one.png", kinds[kind]):
        pixels = made(value, tmp_path, channels).load(files[0]).pixels
        assert pixels.dtype == np.uint8
        np.testing.assert_allclose(pixels.astype(int), expected, atol=1)


def test_a_reference_of_other_channels_is_refused(tmp_path: Path, files: list[Path]) -> None:
    picture = np.zeros((SIDE, SIDE, 4), np.uint8)
    cv2.imwrite(str(tmp_path / "one.png"), picture[..., :3])
    with pytest.raises(DataError, match=r"^reference: expected a picture of 4 channels, got .*one.png \(3"):
        made("one.png", tmp_path, 4).load(files[0], picture)
    with pytest.raises(DSMoEError, match=r"^reference: expected .*got uint8 of \(160, 160, 2\)"):
        made(picture[..., :2], tmp_path).load(files[0])


def test_registration_lays_a_reference_or_counts_it_as_missing(
    tmp_path: Path, files: list[Path], drawn: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    moved = np.roll(drawn[0][1], (4, -6), (0, 1))
    off, on = (made({"file": "g.png", "align": align}, tmp_path) for align in ("none", "shift"))
    cv2.imwrite(str(tmp_path / "g.png"), moved)
    difference = [np.abs(one.load(files[0]).pixels.astype(int) - drawn[0][0]).mean() for one in (off, on)]
    assert difference[1] < difference[0] - 2
    assert on.load(files[0]).quality > 0.8  # type: ignore[operator]
    wrong = on.load(files[2])
    assert (wrong.state, wrong.pixels.any()) == ("unregistered", False)
    assert wrong.mismatch > MISMATCH_LIMIT  # type: ignore[operator]


def test_pairs_are_measured_once_and_kept_beside_the_images(
    tmp_path: Path, files: list[Path], said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(tmp_path / "golden" / "0.png", tmp_path / "golden" / "2.png")  # a wrong one
    value = {"folder": "golden", "align": "shift", "missing": "blank"}
    first = made(value, tmp_path)
    first.prepare(files, "train: ")
    assert (
        "train: references: 2 of 4 images have one; 1 could not be laid on their image and count as missing (2.png)"
        in said.text
    )
    assert "1 seem to show another product, mismatch above 0.4 (2.png)" in said.text
    (kept,) = (tmp_path / "images").glob("*.json")
    assert sorted(json.loads(kept.read_text())["rows"]) == ["0.png", "1.png", "2.png"]
    measured = [first.load(file) for file in files]

    calls: list[Any] = []
    real = references.measured
    monkeypatch.setattr(references, "measured", lambda *a: calls.append(a) or real(*a))
    again = pickle.loads(pickle.dumps(made(value, tmp_path)))
    again.prepare(files)
    for new, old in zip((again.load(file) for file in files), measured, strict=True):
        assert new[1:] == old[1:]
        assert np.array_equal(new.pixels, old.pixels)
    assert not calls
    shutil.copy(tmp_path / "golden" / "1.png", tmp_path / "golden" / "0.png")  # has changed since
    again.prepare(files)
    assert len(calls) == 1
    made({**value, "align": "affine"}, tmp_path).prepare(files)  # another way has a file of its own
    assert len(list((tmp_path / "images").glob("*.json"))) == 2


def test_a_damaged_file_is_measured_anew(tmp_path: Path, files: list[Path]) -> None:
    made("golden", tmp_path).prepare(files[:3])
    (kept,) = (tmp_path / "images").glob("*.json")
    whole = kept.read_text()
    for text in ("", "[]", '{"settings": 1}', whole[:40]):
        kept.write_text(text)
        made("golden", tmp_path).prepare(files[:3])
        assert json.loads(kept.read_text())["rows"].keys() == json.loads(whole)["rows"].keys()


def test_a_folder_that_cannot_be_written_is_no_obstacle(
    tmp_path: Path, files: list[Path], said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "can_write", lambda folder: False)
    one = made("golden", tmp_path)
    one.prepare(files[:3])
    assert "references: measured in each run, nothing can be written beside the images" in said.text
    assert "references: 3 of 3 images have one" in said.text
    assert not list((tmp_path / "images").glob("*.json"))
    monkeypatch.setattr(references, "measured", None)  # what is measured is in memory
    assert one.load(files[0]).state == "ok"


def test_frames_of_a_stream_need_no_file(tmp_path: Path, drawn: list[tuple[np.ndarray, np.ndarray]]) -> None:
    one = made(drawn[0][1], tmp_path)
    assert one.find("frame_1") is None
    assert one.load("frame_1", drawn[0][0]).mismatch < MISMATCH_LIMIT  # type: ignore[operator]
    one.prepare([])


def test_images_of_bare_names_are_measured(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files[0].parent)
    one = made("golden", tmp_path)
    one.prepare(["0.png", "1.png"])
    assert one.mismatch("0.png") is not None
    (kept,) = (tmp_path / "images").glob("*.json")
    assert sorted(json.loads(kept.read_text())["rows"]) == ["0.png", "1.png"]


def test_a_reference_that_lies_nowhere_has_no_mismatch_of_its_own(tmp_path: Path, files: list[Path]) -> None:
    """The limit that a training learns must not rise with it."""
    shutil.copy(tmp_path / "golden" / "0.png", tmp_path / "golden" / "2.png")  # a wrong one
    one = made({"folder": "golden", "align": "shift"}, tmp_path)
    one.prepare(files[:3])
    assert one.report(files[2]).state == "unregistered"
    assert [one.mismatch(file) is None for file in files[:3]] == [False, False, True]


def test_going_without_references_reads_no_picture(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_decoded", "_read_file"):
        monkeypatch.setattr(references, name, None)
    blank = {"missing": "blank"}
    for one in (NoReferences(3), made({"pattern": "^(x)$", "file": "{1}.png", **blank}, tmp_path)):
        one.prepare(files)
        assert one.report(files[0]) == PictureReference("missing")
    assert not list((tmp_path / "images").glob("*.json"))


def test_references_are_in_force_inside_the_block_alone(tmp_path: Path) -> None:
    one = made("golden", tmp_path)
    assert current() is None
    with in_force(one):
        assert current() is one
        with in_force(None):
            assert current() is None
    assert current() is None


def test_images_are_not_their_own_references(tmp_path: Path) -> None:
    """A folder that was mistyped; one good part among the images of a camera may be itself."""
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((8, 8, 3), 90, np.uint8))
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    spec = read_spec("dsmoe_reference", str(tmp_path), tmp_path)
    assert spec is not None
    with pytest.raises(
        DataError, match=r"pictures of known-good parts, got the image itself for 2 of 2 \(a.png, b.png\)"
    ):
        References(spec, 3).require(files)
    one = read_spec("dsmoe_reference", str(files[0]), tmp_path)
    assert one is not None
    References(one, 3).require(files)
