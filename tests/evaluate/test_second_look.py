"""The rule of the second stage: what is certain stays, what is doubtful needs a word for it."""

from __future__ import annotations

import numpy as np
import pytest

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.evaluate.second_look import BAND, LEAST, Rule, SharedNames, verify

DETECTOR = {0: "scratch", 1: "dent", 2: "stain"}
CLASSIFIER = {0: "dent", 1: "scratch"}
WITH_BACKGROUND = {0: "background", 1: "dent", 2: "scratch"}


def stays(
    scores: list[float], classes: list[int], probabilities: list[list[float]], known: dict[int, str], rule: Rule
) -> list[bool]:
    names = SharedNames.find(DETECTOR, known)
    table = np.array(probabilities)
    return verify(np.array(scores), np.array(classes), lambda asked: table[asked], names, rule).tolist()


def test_a_doubtful_box_stays_with_enough_probability_of_its_own_class() -> None:
    probabilities = [[0.7, 0.3], [0.8, 0.2], [0.81, 0.19], [0.1, 0.9]]
    assert stays([0.3] * 4, [0, 0, 0, 1], probabilities, CLASSIFIER, Rule(0.1, 0.5, 0.2)) == [True, True, False, False]


def test_with_a_background_any_defect_confirms() -> None:
    """The classifier is asked whether there is something, never what it is."""
    probabilities = [[0.7, 0.3, 0.0], [0.85, 0.15, 0.0], [0.1, 0.0, 0.9]]
    assert stays([0.3] * 3, [0, 0, 1], probabilities, WITH_BACKGROUND, Rule(0.1, 0.5, 0.2)) == [True, False, True]


def test_the_band_has_its_lower_end_and_not_its_upper() -> None:
    scores = [0.0999, 0.1, 0.4999, 0.5, 0.9]
    nothing = [[0.0, 0.0]] * 5
    assert stays(scores, [0] * 5, nothing, CLASSIFIER, Rule(0.1, 0.5)) == [True, False, False, True, True]


def test_nothing_above_the_band_is_ever_hidden() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        count, (low, high) = int(rng.integers(0, 40)), np.sort(rng.random(2))
        scores, classes = rng.random(count), rng.integers(0, 3, count)
        scores[::5] = high
        asked: list[int] = []

        def says_no(numbers: np.ndarray, asked: list[int] = asked) -> np.ndarray:
            asked += numbers.tolist()
            return np.zeros((len(numbers), 2))

        names = SharedNames.find(DETECTOR, CLASSIFIER)
        stay = verify(scores, classes, says_no, names, Rule(low, high, 1.0))
        assert stay[scores >= high].all()
        assert stay[scores < low].all()
        assert stay[classes == 2].all()  # which the classifier does not know
        assert (~stay).sum() == len(asked) == ((scores >= low) & (scores < high) & (classes != 2)).sum()


def test_what_is_no_number_drops_no_box() -> None:
    assert stays([0.3, np.nan], [0, 0], [[np.nan, np.nan]] * 2, CLASSIFIER, Rule(0.1, 0.5)) == [True, True]


def test_without_a_doubtful_box_nobody_is_asked() -> None:
    names = SharedNames.find(DETECTOR, CLASSIFIER)
    assert verify(np.array([0.9, 0.05]), np.array([0, 1]), lambda asked: 1 / 0, names, Rule()).all()  # type: ignore[arg-type, return-value]
    assert verify(np.zeros(0), np.zeros(0, int), lambda asked: 1 / 0, names, Rule()).shape == (0,)  # type: ignore[arg-type, return-value]


def test_names_are_matched_not_numbers() -> None:
    names = SharedNames.find(DETECTOR, WITH_BACKGROUND)
    assert names.columns.tolist() == [2, 1, -1]
    assert names.background == 0
    assert names.known(np.array([2, 0])).tolist() == [False, True]


def test_a_background_that_the_detector_has_too_is_a_class() -> None:
    names = SharedNames.find({0: "background", 1: "dent"}, WITH_BACKGROUND)
    assert names.background is None
    assert names.columns.tolist() == [0, 1]


@pytest.mark.parametrize("classifier", [{0: "background", 1: "hole"}, {0: "Scratch"}, dict(enumerate("abcdefghij"))])
def test_without_a_common_class_there_is_nothing_to_say(classifier: dict[int, str]) -> None:
    message = r"^dsmoe_verify: expected .*\(scratch, dent, stain\), got one of"
    with pytest.raises(ConfigError, match=message) as caught:
        SharedNames.find(DETECTOR, classifier)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("a, b, c, d, e, f and 4 more") == (len(classifier) == 10)


def test_defaults() -> None:
    assert Rule() == Rule(BAND[0], BAND[1], LEAST) == Rule(0.1, 0.5, 0.2)
