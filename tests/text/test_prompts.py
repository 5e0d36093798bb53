"""Prompts: one list per class in class order, and one clear line for every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text import class_names, class_prompts, read_prompts
from ultra_dsmoe.text.prompts import first_line

NAMES = {0: "missing_hole", 1: "spur", 2: "short"}


def test_one_list_per_class_in_class_order() -> None:
    given = {"short": ["a bridge between two traces", "a blob"], "spur": "a thin spike"}
    assert class_prompts({2: "short", 0: "missing_hole", 1: "spur"}, given) == [
        ["a photo of a missing hole defect"],
        ["a photo of a spur defect: a thin spike"],
        ["a photo of a short defect: a bridge between two traces", "a photo of a short defect: a blob"],
    ]


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_prompts_gives_templates(nothing: dict[str, Any] | None) -> None:
    assert class_prompts(["spur", "short"], nothing) == [["a photo of a spur defect"], ["a photo of a short defect"]]


def test_a_text_with_the_name_field_replaces_the_template() -> None:
    prompts = class_prompts(NAMES, {"missing_hole": "macro shot, {name}, top view"})
    assert prompts[0] == ["macro shot, missing hole, top view"]


def test_finished_prompts_are_not_wrapped_twice() -> None:
    once = class_prompts(NAMES, {"spur": ["a thin spike", "a thorn"]})
    assert class_prompts(NAMES, dict(zip(NAMES.values(), once, strict=True))) == once


def test_white_space_does_not_matter() -> None:
    assert class_prompts(NAMES, {" spur ": "a  thin\n  spike "}) == class_prompts(NAMES, {"spur": "a thin spike"})


def test_number_as_a_name_becomes_text() -> None:
    assert class_names({0: 7, 1: "a"}) == ("7", "a")
    assert class_prompts({0: 7}, {7: "a hook"}) == [["a photo of a 7 defect: a hook"]]


@pytest.mark.parametrize(
    ("prompts", "match"),
    [
        ({"spurr": "x"}, r"prompts: expected a class of this data set: .*'spurr' \(did you mean 'spur'\?\)"),
        ({"SHORT": "x"}, r"did you mean 'short'"),
        ({"zzz": "x"}, r"got 'zzz'$"),
        ({"spur": ""}, r"prompts\[spur\]: expected texts that are not empty, got $"),
        ({"spur": [" \n"]}, r"prompts\[spur\]: expected texts that are not empty"),
        ({"spur": ["fine", None]}, r"got None"),
        ({"spur": []}, r"at least one text, got \[\]"),
        ({"spur": 3}, r"a text or a list of at least one text, got 3"),
        ({"spur": {"a": 1}}, r"a text or a list"),
        ({"spur": ["a", 1.5]}, r"got 1\.5"),
        (["spur"], r"prompts: expected a mapping"),
        ("spur", r"prompts: expected a mapping"),
    ],
)
def test_wrong_prompts_are_one_line(prompts: object, match: str) -> None:
    with pytest.raises(TextError, match=match) as caught:
        class_prompts(NAMES, prompts)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ({}, "at least one class"),
        ([], "at least one class"),
        ({0: "a", 1: " "}, r"names\[1\]: expected a class name that is not empty"),
        ({0: "a", 1: None}, r"names\[1\]"),
        (["a", ["b"]], r"names\[1\]"),
        ({0: "a", 2: "b"}, "indices 0 to 1"),
        ({"x": "a"}, "indices 0 to 0"),
        ("spur", "a mapping of index to class name"),
        (3, "a mapping of index to class name"),
    ],
)
def test_wrong_names_are_one_line(names: object, match: str) -> None:
    with pytest.raises(TextError, match=match):
        class_names(names)  # type: ignore[arg-type]


def test_read_prompts_from_a_bare_mapping_and_from_a_section(tmp_path: Path) -> None:
    bare, section = tmp_path / "bare.yaml", tmp_path / "data.yaml"
    bare.write_text("spur: [a spike, a thorn]\n")
    section.write_text("names: {0: spur}\nprompts:\n  spur: [a spike, a thorn]\n")
    assert read_prompts(bare) == read_prompts(section) == {"spur": ["a spike", "a thorn"]}


@pytest.mark.parametrize("text", ["spur: [", "- a\n- b\n", "", "prompts: 3\n", "\x00"])
def test_read_prompts_refuses_what_is_no_mapping(tmp_path: Path, text: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(TextError, match="prompts file") as caught:
        read_prompts(file)
    assert "\n" not in str(caught.value)


def test_read_prompts_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"a readable YAML file, got .*nope\.yaml"):
        read_prompts(tmp_path / "nope.yaml")


def test_first_line_that_says_something() -> None:
    assert first_line(ValueError("\n  LlamaForCausalLM requires more\nand more")) == "LlamaForCausalLM requires more"
    assert first_line(KeyError()) == "KeyError"
