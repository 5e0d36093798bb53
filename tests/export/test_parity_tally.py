"""What the gate adds up: differences by class, rows that are another's, and detections in another order."""

from __future__ import annotations

import numpy as np
import pytest

from ultra_dsmoe.errors import ShapeError
from ultra_dsmoe.export.parity_tally import Tally, cycles, matched

ANCHORS = 400


def maps(scores: np.ndarray) -> np.ndarray:
    """Return predictions (1, 4 + K, A) of boxes that lie apart and these scores (K, A)."""
    boxes = np.arange(4.0)[:, None] * 100 + np.linspace(0, 50, scores.shape[1])
    return np.concatenate([boxes, scores])[None].astype(np.float32)


def low(classes: int, spread: float = 0.02) -> np.ndarray:
    """Return scores of a net that finds nothing: around 1e-3, and of that by ``spread`` unlike from class to class."""
    rng = np.random.default_rng(0)
    alike, own = rng.uniform(0.5, 1.5, ANCHORS), rng.normal(0, spread, (classes, ANCHORS))
    return 1e-3 * alike * (1 + own)


def tally_of(expected: np.ndarray, found: np.ndarray) -> Tally:
    tally = Tally()
    tally.begin()
    tally.add(expected, found)
    return tally


def named(kind: str, places: dict[int, int]) -> tuple[str, ...]:
    return tuple(f"{kind} {k} of the file is the net's {kind} {j}" for k, j in places.items())


# values by hand -------------------------------------------------------------------------------------------------------


def test_largest_differences_by_image_and_class() -> None:
    tally = Tally()
    scores = np.float32([[0.5, 0.25], [0.125, 0.0]])
    for box, score in ((0.5, 0.125), (0.0, 0.25), (2.0, 0.0)):
        tally.begin()
        found = maps(scores)
        found[0, 2, 1] -= box
        found[0, 5, 0] += score
        tally.add(maps(scores), found)
    assert (tally.boxes, tally.scores) == ([0.5, 0.0, 2.0], [0.125, 0.25, 0.0])
    assert tally.compared
    assert tally.share() == (2.0, 1), "a quarter more than a highest score of an eighth"
    assert tally.share(noise=0.25) == (0.0, 0), "noise is no share of anything"
    assert tally.share(noise=0.2) == (pytest.approx(1.25), 1), "of no less than the noise"
    assert Tally().share() == (0.0, 0)
    assert tally_of(maps(np.float32([[1e-5]])), maps(np.float32([[1.5e-5]]))).share()[0] == pytest.approx(0.5)


def test_the_worst_prediction_counts_until_the_next_image() -> None:
    tally = tally_of(maps(np.float32([[0.5]])), maps(np.float32([[0.75]])))
    tally.add(maps(np.float32([[0.5]])), maps(np.float32([[0.625]])))
    assert (tally.scores, tally.boxes) == ([0.25], [0.0])
    with pytest.raises(ShapeError, match=r"predictions of the exported file: expected shape \(1, 5, 1\) .* got"):
        tally.add(maps(np.float32([[0.5]])), maps(np.float32([[0.5, 0.5]])))


def test_what_is_no_number_is_known_at_any_precision() -> None:
    scores = low(3)
    wrong = maps(scores)
    wrong[0, 5, 7] = np.nan
    tally = tally_of(maps(scores), wrong)
    assert not tally.finite
    assert tally.scores == [np.inf]
    assert tally.mixed_up() == ()
    tally.add(maps(scores), maps(scores))
    assert not tally.finite, "one is enough"
    assert tally_of(maps(scores), maps(scores)).finite


# rows that are another's ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounded", [np.float32, np.float16])
@pytest.mark.parametrize("spread", [0.3, 0.003])
def test_swapped_classes_at_low_scores(rounded: type, spread: float) -> None:
    scores = low(4, spread)
    assert tally_of(maps(scores), maps(scores.astype(rounded))).mixed_up() == ()
    tally = tally_of(maps(scores), maps(scores[[0, 3, 2, 1]].astype(rounded)))
    assert tally.mixed_up() == named("class", {1: 3, 3: 1})


@pytest.mark.parametrize("places", [[1, 2, 0, 3, 4], [1, 2, 3, 4, 0], [1, 0, 4, 2, 3]])
def test_any_exchange_is_named(places: list[int]) -> None:
    """Class k of the file is the net's places[k]: three in a ring, all in a ring, a pair beside a ring."""
    scores = low(5)
    tally = tally_of(maps(scores), maps(scores[places].astype(np.float16)))
    assert tally.mixed_up() == named("class", {k: j for k, j in enumerate(places) if j != k})


def test_swapped_coordinates_that_are_nearly_the_same() -> None:
    """Width and height of a net that boxes squares."""
    expected = maps(low(2))
    expected[0, 3] = expected[0, 2] + np.random.default_rng(0).normal(0, 0.5, ANCHORS)
    rounded = expected.astype(np.float16).astype(np.float32)
    assert tally_of(expected, rounded).mixed_up() == ()
    tally = tally_of(expected, rounded[:, [0, 1, 3, 2, 4, 5]])
    assert tally.mixed_up() == named("box coordinate", {2: 3, 3: 2})


def test_what_rounding_does_to_all_classes_alike_hides_no_exchange() -> None:
    scores, common = low(3), np.random.default_rng(1).normal(0, 3e-4, ANCHORS)
    assert tally_of(maps(scores), maps(scores + common)).mixed_up() == ()
    assert tally_of(maps(scores), maps(scores[[1, 0, 2]] + common)).mixed_up() == named("class", {0: 1, 1: 0})


@pytest.mark.parametrize("highest", [1.0, 1e-3])
def test_a_class_that_is_there_twice_is_named(highest: float) -> None:
    scores = np.random.default_rng(0).uniform(0, highest, (3, ANCHORS))
    tally = tally_of(maps(scores), maps(scores[[2, 1, 2]]))
    assert tally.mixed_up() == named("class", {0: 2})


@pytest.mark.parametrize(("way", "found"), [(0.375, {}), (0.3, {0: 1})])
def test_twice_as_near_to_another_is_another(way: float, found: dict[int, int]) -> None:
    """Of two classes at right angles, the file's first lies on the way from the second to its own place."""
    scores = np.eye(2)
    tally = tally_of(maps(scores), maps(np.stack([way * scores[0] + (1 - way) * scores[1], scores[1]])))
    assert tally.mixed_up() == named("class", found)


def test_coordinates_are_compared_with_coordinates() -> None:
    """A score that happens to be a coordinate is none."""
    expected = maps(np.ones((1, ANCHORS)))
    expected[0, 0] = 0.125
    found = expected.copy()
    found[0, 4] = 0.125
    assert tally_of(expected, found).mixed_up() == ()


@pytest.mark.parametrize("seed", range(5))
def test_coarse_rounding_is_no_exchange(seed: int) -> None:
    """Errors as large as what tells the classes apart, at random places or of a whole class."""
    rng = np.random.default_rng(seed)
    scores = low(6)
    size = np.abs(scores[0] - scores[1]).mean()
    for error in (rng.normal(0, 2 * size, scores.shape), rng.normal(0, size / 2, (6, 1)), -0.3 * scores):
        assert tally_of(maps(scores), maps(scores + error)).mixed_up() == ()


def test_classes_that_are_one_are_not_told_apart() -> None:
    for spread, found in ((3e-5, ()), (3e-4, named("class", {0: 1, 1: 0}))):  # the limit is 1e-4
        scores = low(2, spread)
        assert tally_of(maps(scores), maps(scores[::-1])).mixed_up() == found
    same = np.tile(low(1), (3, 1))
    assert tally_of(maps(same), maps(same)).mixed_up() == ()


def test_images_count_together() -> None:
    """One image alone may say too little: here each shows one class only."""
    tally = Tally()
    for number in range(2):
        scores = np.zeros((2, ANCHORS))
        scores[number] = low(1)
        tally.begin()
        tally.add(maps(scores), maps(scores[::-1]))
    assert tally.mixed_up() == named("class", {0: 1, 1: 0})


def test_cycles_of_a_permutation() -> None:
    assert list(cycles(np.array([0, 4, 3, 2, 5, 1]))) == [[1, 4, 5], [2, 3]]
    assert list(cycles(np.arange(3))) == []


# detections -----------------------------------------------------------------------------------------------------------


def detections(*rows: tuple[float, ...]) -> np.ndarray:
    """Return detections (M, 6) of 10 px boxes: left edge, score, class."""
    return np.float32([(x, 0, x + 10, 10, score, number) for x, score, number in rows])


def test_detections_are_matched_in_any_order() -> None:
    ours = detections((0, 0.5, 0), (50, 0.5, 0), (50, 0.75, 2), (0, 0, 0))
    theirs = detections((52, 0.5, 0), (0, 0.75, 0), (50, 0.75, 2), (0, 0, 0))
    both = [(0, 0.0, 0.25), (0, 2.0, 0.0), (2, 0.0, 0.0)]
    assert list(matched(ours, theirs)) == [*both, both[1], both[0], both[2]]


def test_a_detection_without_a_mate_is_infinitely_far() -> None:
    ours, theirs = detections((0, 0.5, 0), (0, 0, 0)), detections((0, 0.5, 1), (0, 0, 0))  # class 0 fills up
    assert list(matched(ours, theirs)) == [(0, np.inf, np.inf), (1, np.inf, np.inf)]
    theirs[1, 4] = np.nan
    assert list(matched(ours, theirs)) == [(0, np.inf, np.inf)]


@pytest.mark.parametrize(("score", "counts"), [(0.2502, False), (0.252, True)])
def test_what_barely_passes_the_threshold_may_be_missing(score: float, counts: bool) -> None:
    ours, theirs = detections((0, 0.5, 0), (90, score, 1), (0, 0, 0)), detections((0, 0.5, 0), (0, 0, 0), (0, 0, 0))
    assert [number for number, box, _ in matched(ours, theirs, 0.25) if box == np.inf] == [1] * counts
    tally = Tally()
    tally.begin()
    tally.add(ours[None], theirs[None], 0.25)
    assert tally.scores == [np.inf if counts else 0.0]


def test_a_low_net_has_a_narrow_edge() -> None:
    """A hundredth of the highest score of either side may be missing: a thousandth would let a whole low net go."""
    high, nothing = detections((0, 1e-3, 2), (0, 0, 0)), detections((0, 1e-5, 2), (0, 0, 0))
    for score, missing in ((5e-5, [1, 1]), (5e-6, [])):
        for ours, theirs in ((high, nothing), (nothing, high)):
            more = np.concatenate([detections((90, score, 1)), ours])
            found = [*matched(more, theirs), *matched(theirs, more)]
            assert [number for number, box, _ in found if box == np.inf and number == 1] == missing


def test_the_last_may_make_way_for_another() -> None:
    ours, theirs = detections((0, 0.5, 2), (50, 0.25, 3)), detections((4, 0.5, 2), (70, 0.25, 3))
    assert list(matched(ours, theirs)) == [(2, 4.0, 0.0)] * 2


def test_detections_count_by_class() -> None:
    tally = Tally()
    tally.begin()
    tally.add(detections((0, 0.5, 3), (0, 0, 0))[None], detections((4, 0.25, 3), (0, 0, 0))[None])
    assert (tally.boxes, tally.scores, tally.share()) == ([4.0], [0.25], (0.5, 3))
    assert tally.compared
    empty = Tally()
    empty.begin()
    empty.add(np.zeros((1, 5, 6), np.float32), np.zeros((1, 5, 6), np.float32))
    assert not empty.compared
    assert empty.share() == (0.0, 0)
