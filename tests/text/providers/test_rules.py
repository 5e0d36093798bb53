"""Rules: words by quintile of the training half, elongated only beyond chance, no class in them."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from hit_pictures import draw, record_of, scatter

from ultra_dsmoe.errors import DataError, TextError
from ultra_dsmoe.text.providers import wording
from ultra_dsmoe.text.providers.rules import Rules, elongation

CLASSES = (  # what a person would say of the kinds of hit patterns
    "concentrated at the centre", "slightly divergent", "shifted off centre", "stretched along x or y",
    "fully divergent",
)  # fmt: skip
Pair = tuple[np.ndarray, dict[str, float]]


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    rng = np.random.default_rng(0)
    sets = [scatter(i, tuple(rng.normal(0, 2, 2)), tuple(rng.uniform(1, 3, 2)), 80 + 5 * i) for i in range(40)]
    return [(draw(points), record_of(points)) for points in sets]


@pytest.fixture(scope="module")
def rules(pairs: list[Pair]) -> Rules:
    made = Rules()
    made.fit((image for image, _ in pairs), [record for _, record in pairs])
    return made


def test_place_and_spread_are_told(rules: Rules) -> None:
    far = scatter(99, (7, -6), (0.8, 0.8))
    vlm, llm = (rules.describe(text, draw(far), record_of(far)) for text in ("vlm", "llm"))
    assert "extremely right and utterly below" in vlm
    assert "tightly packed" in vlm.lower()
    assert "mean x 7, mean y -6: extremely right and utterly below" in llm
    assert "spread 1: packed" in llm or "spread 0.8: packed" in llm
    wide = scatter(99, (-7, 6), (3, 3))
    vlm, llm = (rules.describe(text, draw(wide), record_of(wide)) for text in ("vlm", "llm"))
    assert "extremely left and utterly above" in vlm
    assert "scattered" in llm or "sprawling" in llm


def test_texts_differ_and_hold_no_digits_but_rounded_ones(rules: Rules, pairs: list[Pair]) -> None:
    said = [(rules.describe("vlm", *pair), rules.describe("llm", *pair)) for pair in pairs]
    assert len(set(said)) == len(pairs)
    assert not any(re.search(r"\d", vlm) for vlm, _ in said), "one who looks says no numbers"
    assert len({number for _, llm in said for number in re.findall(r"mean x (-?[\d.]+)", llm)}) <= 25
    lengths = [len(text.split()) for pair in said for text in pair]
    assert max(lengths) < 80, "encoders cut at 128 tokens"


def test_no_text_is_a_class_description(rules: Rules, pairs: list[Pair]) -> None:
    phrases = [*(w for words in wording.PICTURE.values() for w in words), *wording.STRETCHED, *wording.AXES]
    said = " ".join(rules.describe(text, *pair) for pair in pairs for text in ("vlm", "llm")) + " ".join(phrases)
    assert not any(description in said.lower() for description in CLASSES)


def test_no_word_stands_for_two_numbers_of_a_picture() -> None:
    words = [word for phrases in wording.PICTURE.values() for word in phrases]
    assert len(words) == len(set(words))
    sides = [word for axis in wording.SIDES for side in axis for word in side]
    assert len(sides) == len(set(sides))


def test_chance_is_not_told_as_elongation() -> None:
    """Round clouds are called elongated in 1 of 20, distinctly in 3 of 1000; a true ratio of 2 nearly always."""
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(wording.STRETCHED, 0)
    n, trials = 100, 2000
    for points in rng.normal(0, 1, (trials, n, 2)):
        covariance = np.cov(points.T)
        rho = covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])
        said = elongation(math.log(covariance[0, 0] / covariance[1, 1]), 2 * math.atanh(rho), n)
        counts[max((w for w in counts if said.startswith(w)), key=len)] += 1
    assert 0.6 < counts["round"] / trials < 0.72
    assert 0.03 < (counts["elongated"] + counts["distinctly elongated"]) / trials < 0.075
    assert counts["distinctly elongated"] / trials < 0.01
    assert elongation(math.log(2), 0, 200) == "distinctly elongated horizontally"


@pytest.mark.parametrize(
    ("stretch", "tilt", "axis"),
    [(2, 0, "horizontally"), (-2, 0, "vertically"), (0, 2, "diagonally rising"), (0, -2, "diagonally falling"),
     (2, 0.3, "horizontally"), (2, -0.3, "horizontally")],
)  # fmt: skip
def test_the_axis_is_named(stretch: float, tilt: float, axis: str) -> None:
    assert elongation(stretch, tilt, 100).endswith(axis)
    assert elongation(stretch, tilt, 1) == "round" or elongation(stretch, tilt, 1).startswith("perhaps")


def test_without_a_record_the_measured_numbers_are_told(rules: Rules, pairs: list[Pair]) -> None:
    text = rules.describe("llm", pairs[0][0], None)
    assert text.startswith("Measured: offset x ")
    assert "share " in text
    bare = Rules()
    bare.fit([image for image, _ in pairs], [None] * len(pairs))
    assert bare.describe("llm", *pairs[0]) == text, "where the training half had no record, one record changes nothing"


def test_an_empty_picture_is_told(rules: Rules) -> None:
    blank = np.full((96, 96, 3), 255, np.uint8)
    assert rules.describe("vlm", blank, None).startswith("Nothing stands out")
    assert rules.describe("llm", blank, None).startswith("Measured: ")
    alone = Rules()
    alone.fit([blank], [None])
    assert alone.describe("vlm", blank, None) == "Nothing stands out from the ground."
    assert alone.describe("llm", blank, None) == "Measured: nothing that differs."


def test_state_gives_equal_texts(rules: Rules, pairs: list[Pair]) -> None:
    again = Rules.from_state(json.loads(json.dumps(rules.state())))
    for pair in pairs[:5]:
        assert [again.describe(t, *pair) for t in ("vlm", "llm")] == [rules.describe(t, *pair) for t in ("vlm", "llm")]


def test_bad_input_is_one_line(rules: Rules, pairs: list[Pair]) -> None:
    with pytest.raises(TextError, match=r"^rules: expected bounds of a training half, by fit\(images\), got none$"):
        Rules().describe("vlm", *pairs[0])
    with pytest.raises(TextError, match=r"^rules: expected at least one image"):
        Rules().fit([], [])
    with pytest.raises(DataError, match=r"^record: expected some of .*mean x.*, got temperature$"):
        rules.describe("llm", pairs[0][0], {"temperature": 3.0})
    with pytest.raises(TextError, match=r"^rules: expected the wording "):
        Rules.from_state({"wording": -1})
    assert Rules.from_state(Rules().state()).picture is None
