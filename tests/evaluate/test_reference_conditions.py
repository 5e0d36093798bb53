"""What goes wrong between image and reference, by hand-made pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from ultra_dsmoe.data.labelled import Piece
from ultra_dsmoe.errors import DataError
from ultra_dsmoe.evaluate.reference_conditions import Condition, Pair, conditions, known_good, write_set

SIDE = 48


def dotted(row: int, column: int) -> np.ndarray:
    """Return a gray picture with a bright square of nine pixels."""
    pixels = np.full((SIDE, SIDE, 3), 60, np.uint8)
    pixels[row - 1 : row + 2, column - 1 : column + 2] = 200
    return pixels


def pair(name: str, group: str, value: int) -> Pair:
    """Return a pair whose reference is of one gray level."""
    piece = Piece(dotted(20, 24), np.array([1]), np.array([[20.0, 16.0, 28.0, 24.0]]))
    return Pair(Path(f"{name}.png"), piece, np.full((SIDE, SIDE, 3), value, np.uint8), group)


def by_name(name: str) -> Condition:
    """Return one of the conditions."""
    return next(c for c in conditions() if c.name == name)


def test_names_are_distinct_and_the_undisturbed_one_comes_first() -> None:
    """Tables go by name."""
    names = [c.name for c in conditions()]
    assert names[0] == "as it is"
    assert len(set(names)) == len(names)
    assert {"shift 8 px", "rotation 0.5 degrees", "exposure -30 %", "exposure +30 %", "blur 2 px"} < set(names)
    assert {"wrong reference", "no reference"} < set(names)


@pytest.mark.parametrize("px", [1, 2, 4, 8])
def test_shift_moves_the_reference_by_its_length_and_leaves_the_image(px: int) -> None:
    """The direction is drawn; the bright square's centre of gravity tells the length."""
    condition = by_name(f"shift {px} px")
    assert condition.of_image is None
    assert condition.of_reference is not None
    before, after = dotted(20, 24), condition.of_reference(dotted(20, 24), np.random.default_rng(1))
    centres = [np.array(np.nonzero(p[..., 0] > 100), float).mean(1) for p in (before, after)]
    assert np.linalg.norm(centres[0] - centres[1]) == pytest.approx(px, abs=0.75)
    assert after.min() == 60  # what comes in continues the edge


def test_rotation_turns_about_the_middle() -> None:
    """The middle stays, a corner moves by the angle times its distance."""
    condition = by_name("rotation 2 degrees")
    assert condition.of_reference is not None
    middle = SIDE // 2
    still = condition.of_reference(dotted(middle, middle), np.random.default_rng(0))
    assert still[middle, middle, 0] > 180
    moved = condition.of_reference(dotted(4, 4), np.random.default_rng(0))
    centre = np.array(np.nonzero(moved[..., 0] > 100), float).mean(1)
    expected = np.deg2rad(2) * np.hypot(middle - 4, middle - 4)
    assert np.linalg.norm(centre - 4) == pytest.approx(expected, abs=0.75)


def test_exposure_and_blur_change_the_image_alone() -> None:
    """A net without a reference meets them, too."""
    darker = by_name("exposure -30 %")
    assert darker.of_reference is None
    assert darker.of_image is not None
    assert np.array_equal(np.unique(darker.of_image(dotted(9, 9), np.random.default_rng(0))), [42, 140])
    softer = by_name("blur 2 px")
    assert softer.of_image is not None
    blurred = softer.of_image(dotted(20, 24), np.random.default_rng(0))
    assert 60 < blurred[20, 24, 0] < 140


def test_known_good_is_another_shot_without_a_defect() -> None:
    """Moved, brighter or darker, noisy: but the same part."""
    shot = known_good(px=0, exposure=0.1, noise=4)(np.full((64, 64, 3), 100, np.uint8), np.random.default_rng(3))
    assert 88 < shot.mean() < 112
    assert shot.std() == pytest.approx(4, abs=0.3)


def test_a_written_set_has_images_labels_and_references(tmp_path: Path) -> None:
    """And says which registration it wants."""
    data = write_set(
        tmp_path / "set", [pair("a", "1", 10), pair("b", "2", 20)], by_name("as it is"), ["x", "y"], "shift"
    )
    content = yaml.safe_load(data.read_text())
    where = {"pattern": "^(.*)$", "file": "references/{1}.png"}
    assert content["reference"] == {**where, "align": "shift", "missing": "blank"}
    assert content["names"] == {0: "x", 1: "y"}
    files = sorted(p.name for p in (tmp_path / "set" / "references").iterdir())
    assert files == ["00000_a.png", "00001_b.png"]
    assert np.array_equal(cv2.imread(str(tmp_path / "set/images/00000_a.png")), dotted(20, 24))
    assert (tmp_path / "set/labels/00001_b.txt").read_text().split() == [
        "1",
        "0.500000",
        "0.416667",
        "0.166667",
        "0.166667",
    ]


def test_a_wrong_reference_is_another_products(tmp_path: Path) -> None:
    """Never one of the same group."""
    pairs = [pair("a", "1", 10), pair("b", "1", 20), pair("c", "2", 30)]
    write_set(tmp_path / "set", pairs, by_name("wrong reference"), ["x", "y"], "none")
    shown = [cv2.imread(str(p))[0, 0, 0] for p in sorted((tmp_path / "set/references").iterdir())]
    assert shown == [30, 30, 10]
    with pytest.raises(DataError, match="at least two products"):
        write_set(tmp_path / "other", pairs[:2], by_name("wrong reference"), ["x", "y"], "none")


def test_no_reference_writes_none(tmp_path: Path) -> None:
    """The set itself permits that."""
    write_set(tmp_path / "set", [pair("a", "1", 10)], by_name("no reference"), ["x", "y"], "none")
    assert not list((tmp_path / "set/references").iterdir())
