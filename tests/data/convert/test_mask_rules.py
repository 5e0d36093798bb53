"""The section ``masks`` of a data YAML: which words and values stand for which class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.convert.mask_rules import GOOD, MaskRules
from ultra_dsmoe.errors import DSMoEError

NAMES = {0: "hole", 1: "oil_spot"}


def rules(**section: Any) -> MaskRules:
    return MaskRules.parse({"names": NAMES, "masks": section})


def kind(of: MaskRules, *files: str) -> int | None:
    return of.kind([Path(file) for file in files])


def test_folders_named_like_a_class_and_good_need_no_section() -> None:
    plain = MaskRules.parse({"names": NAMES})
    assert kind(plain, "hole/a.png") == 0
    assert kind(plain, "Oil Spot/images/a.png") == kind(plain, "oil-spot/a.png") == 1
    assert kind(plain, "good/a.png") == GOOD
    assert kind(plain, "a.png") is kind(plain, "bad/a.png") is None


def test_the_name_counts_before_the_nearest_folder_and_the_image_before_its_mask() -> None:
    told = rules(kinds={"e1": "hole", "e2": "oil_spot", "e0": None}, name="(e[0-9])n")
    assert kind(told, "oil_spot/e1n7.tif") == 0
    assert kind(told, "oil_spot/e0n7.tif") == GOOD
    assert kind(told, "oil_spot/e9n7.tif") == 1  # a word that is not known says nothing
    assert kind(told, "hole/oil_spot/x.tif") == 1
    assert kind(told, "images/x.tif", "masks/hole/x.png") == 0
    assert kind(told, "oil_spot/x.tif", "masks/hole/x.png") == 1


def test_kinds_can_make_a_class_folder_a_good_one() -> None:
    assert kind(rules(kinds={"hole": None}), "hole/a.png") == GOOD


def test_values_are_numbers_or_colours() -> None:
    assert rules(values={"oil_spot": 2, "hole": 65535}).values == {2: 1, 65535: 0}
    told = rules(values={"oil_spot": "#00FF00", "hole": "#ff0000"})
    assert told.by_colour
    assert told.values == {0x00FF00: 1, 0xFF0000: 0}


def test_the_nearest_word_is_suggested() -> None:
    error = rules().unknown(Path("x/a.png"), Path("Hols/images/a.png"))
    assert (
        str(error) == "x/a.png: expected a folder out of good, hole, oil_spot (did you mean 'hole'?), got Hols/images"
    )
    assert str(rules().unknown(Path("a.png"), Path("a.png"))).endswith("got none")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ([1], "masks: expected a mapping"),
        ({"kind": {}}, r"masks: .*did you mean 'kinds'\?"),
        ({"kinds": ["hole"]}, "masks: kinds: expected a mapping"),
        ({"kinds": {"e1": "hol"}}, r"masks: kinds: expected one of hole, oil_spot \(did you mean 'hole'\?\), got hol"),
        ({"name": "("}, "masks: name: expected a regular expression"),
        ({"name": 3}, "masks: name: expected a regular expression"),
        ({"name": "e[0-9]"}, "one group in parentheses"),
        ({"values": {"hol": 1}}, "masks: values: expected one of hole"),
        ({"values": {"hole": 0}}, "numbers above 0"),
        ({"values": {"hole": True}}, "numbers above 0"),
        ({"values": {"hole": "red"}}, "numbers above 0, or colours"),
        ({"values": {"hole": "#000000"}}, "but black"),
        ({"values": {"hole": 1, "oil_spot": "#ff0000"}}, "numbers above 0"),
        ({"values": {"hole": 1, "oil_spot": 1}}, "another value for each class"),
    ],
)
def test_wrong_sections(section: Any, message: str) -> None:
    with pytest.raises(DSMoEError, match=message):
        MaskRules.parse({"names": NAMES, "masks": section})


@pytest.mark.parametrize("name", packaged.COMMANDS)
def test_sections_of_the_packaged_sets_are_right(name: str) -> None:
    assert len(MaskRules.parse(packaged.load(name)).names) == len(packaged.load(name)["names"])
