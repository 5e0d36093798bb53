"""Changes of the two pictures of a pair: within their bounds, apart or together, off at 0, the same for a seed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from ultralytics.data.augment import Compose, RandomHSV

from ultra_dsmoe.data.reference.augment import BothHalves, ImageHalf, PairAugment, Reversed, WholeBlocks, for_pairs
from ultra_dsmoe.data.reference.pairing import halves, stacked
from ultra_dsmoe.data.reference.strengths import Strengths, read_strengths
from ultra_dsmoe.errors import ConfigError

OFF: dict[str, Any] = {"px": 0.0, "degrees": 0.0, "exposure": 0.0, "noise": 0.0, "drop": 0.0}


def picture(side: int = 48, channels: int = 3) -> np.ndarray:
    smooth = np.random.default_rng(0).integers(40, 200, (side // 8, side // 8, channels), np.uint8)
    return smooth.repeat(8, 0).repeat(8, 1)


def pair_of(image: np.ndarray) -> np.ndarray:
    return stacked(image, image)


def changed(pair: np.ndarray, **strengths: float) -> np.ndarray:
    return PairAugment(Strengths(**{**OFF, **strengths}))(pair)


# apart ----------------------------------------------------------------------------------------------------------------


def test_all_of_it_can_be_switched_off() -> None:
    pair = pair_of(picture())
    result = changed(pair)
    np.testing.assert_array_equal(result, pair)
    assert result is not pair  # what is in memory is never written into


@pytest.mark.parametrize("strength", ["px", "degrees", "exposure", "noise", "drop"])
def test_what_is_in_memory_stays(strength: str) -> None:
    pair = pair_of(picture())
    before = pair.copy()
    strongest = {"px": 40.0, "exposure": 0.5, "drop": 1.0}
    assert (changed(pair, **{strength: strongest.get(strength, 5.0)}) != before).any()
    np.testing.assert_array_equal(pair, before)


def test_the_reference_alone_moves_and_no_further_than_allowed() -> None:
    """As said of 640 pixels; this picture has 64, and four steps a pixel."""
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))[..., None].repeat(3, 2)
    shifts = []
    for _ in range(50):
        image, reference = np.split(changed(pair_of(ramp), px=20.0).astype(int), 2, axis=2)
        np.testing.assert_array_equal(image, ramp)
        shifts.append(np.abs(reference - ramp)[:, 4:-4].max() / 4)
    assert 1.5 < max(shifts) <= 2.1


def test_a_turn_leaves_the_centre() -> None:
    ramp = np.tile(np.arange(96, dtype=np.uint8) * 2, (96, 1))[..., None].repeat(3, 2)
    _, reference = np.split(changed(pair_of(ramp), degrees=5.0).astype(int), 2, axis=2)
    difference = np.abs(reference - ramp).max(2)[:, 20:76]
    assert difference[:10].mean() > 5 * difference[44:52].mean()


def test_exposures_differ_within_their_bound() -> None:
    gray = np.full((16, 16, 3), 100, np.uint8)
    both = [np.split(changed(pair_of(gray), exposure=0.2).astype(float), 2, axis=2) for _ in range(50)]
    levels = np.array([[image.mean(), reference.mean()] for image, reference in both])
    assert np.abs(np.diff(levels)).max() > 10
    assert levels.min() >= (100 - 27.5 * 0.2) * 0.8 - 1
    assert levels.max() <= (100 + 27.5 * 0.2) * 1.2 + 1


def test_noise_is_of_its_own_in_each_pixel_and_as_strong_as_said() -> None:
    gray = np.full((64, 64, 3), 100, np.uint8)
    deviations = []
    for _ in range(50):
        image, reference = (half - 100.0 for half in np.split(changed(pair_of(gray), noise=4.0), 2, axis=2))
        deviations.append(image.std())
        if image.std() > 1:
            assert abs(np.corrcoef(image.ravel(), reference.ravel())[0, 1]) < 0.1
    assert 3 < max(deviations) < 4.3


def test_references_are_left_out_in_a_share_of_pairs() -> None:
    pair = pair_of(picture())
    blank = [not changed(pair, drop=0.3)[..., 3:].any() for _ in range(300)]
    assert 0.2 < np.mean(blank) < 0.4


def test_a_blank_reference_stays_blank() -> None:
    pair = stacked(picture(), np.zeros_like(picture()))
    result = changed(pair, px=20.0, exposure=0.5, noise=20.0)
    assert not result[..., 3:].any()
    assert (result[..., :3] != pair[..., :3]).any()


def test_a_seed_gives_the_same() -> None:
    pair = pair_of(picture(channels=1))
    augment = PairAugment(Strengths())
    results = []
    for seed in (3, 3, 4):
        random.seed(seed)
        results.append([augment(pair) for _ in range(5)])
    np.testing.assert_array_equal(results[0], results[1])
    assert (np.array(results[0]) != np.array(results[2])).any()


# the host's transforms ------------------------------------------------------------------------------------------------


def test_colours_change_alike_in_both_halves() -> None:
    pair = pair_of(picture())
    transforms = for_pairs(Compose([RandomHSV(0.5, 0.5, 0.5)]), 3)
    assert isinstance(transforms.transforms[0], BothHalves)
    image, reference = halves(transforms({"img": pair.copy()})["img"])
    np.testing.assert_array_equal(image, reference)
    np.random.seed(0)
    alone = RandomHSV(0.5, 0.5, 0.5)({"img": picture()})["img"]
    np.random.seed(0)
    image, _ = halves(transforms({"img": pair.copy()})["img"])
    np.testing.assert_array_equal(image, alone)


class Darker:
    """Stands for what Albumentations does: one picture in, one out."""

    transform = None
    contains_spatial = False

    def __call__(self, labels: dict[str, Any]) -> dict[str, Any]:
        assert labels["img"].shape[2] == 3
        return {**labels, "img": labels["img"] // 2}


def test_some_transforms_see_the_image_alone() -> None:
    image, reference = halves(ImageHalf(Darker())({"img": pair_of(picture())})["img"])
    np.testing.assert_array_equal(image, picture() // 2)
    np.testing.assert_array_equal(reference, picture())


def test_transforms_that_move_the_image_alone_are_refused() -> None:
    moving = Darker()
    moving.contains_spatial, moving.transform = True, type("Composed", (), {"transforms": [Darker()]})  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"augmentations: expected transforms that leave all pixels .* got Darker"):
        ImageHalf(moving)


@pytest.mark.parametrize("channels", [4, 6, 8])
def test_every_fourth_channel_is_hidden_from_a_warp(channels: int) -> None:
    pair = np.random.default_rng(0).integers(0, 255, (8, 8, channels), np.uint8)

    def blackening(labels: dict[str, Any]) -> dict[str, Any]:
        labels["img"][..., 3::4] = 0
        return labels

    np.testing.assert_array_equal(WholeBlocks(blackening)({"img": pair})["img"], pair)


def test_bgr_turns_both_halves() -> None:
    pair = stacked(picture(), 255 - picture())
    transforms = for_pairs(Compose([lambda labels: labels]), 3, bgr=1.0)
    assert isinstance(transforms.transforms[0], Reversed)
    turned = transforms({"img": pair})["img"]
    np.testing.assert_array_equal(turned[..., :3], picture())
    np.testing.assert_array_equal(turned[..., 3:], 255 - picture())


# strengths ------------------------------------------------------------------------------------------------------------


def test_strengths_are_read_back() -> None:
    assert read_strengths("reference", {}) == Strengths()
    given = {"jitter": {"px": 1}, "exposure": 0, "noise": False, "drop": 0.5}
    strengths = read_strengths("reference", given)
    assert strengths == Strengths(1.0, 0.2, 0.0, 0.0, 0.5)
    assert read_strengths("reference", strengths.state()) == strengths
    assert read_strengths("reference", {"drop": 0}, strengths) == Strengths(1.0, 0.2, 0.0, 0.0, 0.0)
    for off in (0, 0.0, False):
        assert read_strengths("reference", {"jitter": off}) == Strengths(0.0, 0.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"jitter": 3}, r"reference.jitter: expected \{px"),
        ({"jitter": True}, r"reference.jitter: expected \{px"),
        ({"jitter": {"pixels": 3}}, r"reference.jitter: expected keys out of px, degrees"),
        ({"jitter": {"px": -1}}, r"reference.jitter.px: expected a number from 0"),
        ({"exposure": "much"}, r"reference.exposure: expected a number from 0 to 0.9"),
        ({"noise": True}, r"reference.noise: expected a number"),
        ({"drop": 2}, r"reference.drop: expected a number from 0 to 1"),
    ],
)
def test_wrong_strengths_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_strengths("reference", given)
