"""Verdicts of a study: on made-up matches whose truth is known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from ultra_dsmoe.data.groups import group_numbers
from ultra_dsmoe.errors import DataError
from ultra_dsmoe.evaluate.bootstrap import mean_ap
from ultra_dsmoe.evaluate.evaluation import ImageStats
from ultra_dsmoe.study import verdict

THRESHOLDS = np.linspace(0.5, 0.95, 10)


def made_up(
    skills: dict[str, float],
    seeds: int = 3,
    images: int = 120,
    root: int = 0,
    sway: float = 0.0,
    classes: int = 2,
    thresholds: np.ndarray = THRESHOLDS,
) -> dict[str, dict[int, ImageStats]]:
    """Return runs in which a label is found with a model's probability, half of the luck being the label's own.

    A hundredth of skill is about a point of mAP50. ``sway`` is the spread of the skill between trainings; with a single
    one of the ``thresholds`` of IoU, both measures are mAP50, which takes a tenth of the time.
    """
    rng = np.random.default_rng(root)
    labels = [rng.integers(0, classes, int(n)).astype(float) for n in rng.integers(1, 9, images)]
    hard = [rng.random(len(t)) for t in labels]  # common to all models and seeds
    runs: dict[str, dict[int, ImageStats]] = {}
    for model, seed in itertools.product(skills, range(seeds)):
        skill = skills[model] + rng.normal(0, sway)
        run = ImageStats(files=[f"{i // 4}_{i % 4}.png" for i in range(images)], target_cls=labels)
        for target, luck in zip(labels, hard, strict=True):
            found = target[np.where(rng.random(len(target)) < 0.5, luck, rng.random(len(target))) < skill]
            false = rng.integers(0, classes, int(rng.integers(0, 3))).astype(float)
            iou = np.concatenate([rng.uniform(0.5, 1, len(found)), np.zeros(len(false))])
            run.tp.append(iou[:, None] >= thresholds)
            run.conf.append(np.clip(0.4 + 0.3 * iou + rng.normal(0, 0.1, len(iou)), 0.001, 0.999))
            run.pred_cls.append(np.concatenate([found, false]))
        runs.setdefault(model, {})[seed] = run
    return runs


def compare(runs: dict[str, Any], groups: str | None = None, boot: int = 100) -> list[Any]:
    files = next(iter(runs["base"].values())).files
    data = verdict.DataSet("set", runs, group_numbers(files, groups))
    return verdict.judge([data], [(name, "base") for name in runs if name != "base"], boot=boot)[1]


def test_true_difference_has_its_sign_and_size() -> None:
    """The difference is that of the mAPs, up and down alike."""
    runs = made_up({"base": 0.780, "up": 0.860, "down": 0.700}, seeds=3, images=200)
    truth = [100 * np.mean([mean_ap(runs[m][s]) - mean_ap(runs["base"][s]) for s in range(3)], 0)
             for m in ("up", "down")]  # fmt: skip
    found = compare(runs)
    assert [c.measure for c in found] == ["mAP50", "mAP50-95"] * 2
    assert [c.difference for c in found] == pytest.approx(np.concatenate(truth))
    assert all(c.low < c.difference < c.high for c in found)
    assert found[0].verdict.startswith("better by ")
    assert found[2].verdict.startswith("worse by ")


def share_found(skill: float, points: float, roots: int, seeds: int, images: int, sway: float) -> tuple[float, float]:
    """Return the share of studies that find a true difference with its sign, and the mean difference in points."""
    skills = {"base": skill, "other": skill + points / 100}
    sentence = "better by " if points > 0 else "worse by "
    found, total = 0, 0.0
    for root in range(roots):
        runs = made_up(skills, seeds, images, root, sway, thresholds=THRESHOLDS[:1])
        first = compare(runs)[0]
        found += first.verdict.startswith(sentence)
        total += first.difference
    return found / roots, total / roots


@pytest.mark.parametrize("points", [2, -2])
def test_true_difference_is_found(points: int) -> None:
    """Two points of mAP50: with eight trainings that differ little, and good nets, all of five studies find them."""
    share, mean = share_found(0.9, points, roots=5, seeds=8, images=400, sway=0.003)
    assert mean == pytest.approx(points, abs=0.4)
    assert share == 1


@pytest.mark.slow
def test_small_studies_miss_two_points() -> None:
    """Three seeds, 360 images, trainings as far apart as real ones: few of a hundred studies find two points."""
    share, mean = share_found(0.7, 2, roots=100, seeds=3, images=360, sway=0.013)
    assert mean == pytest.approx(2, abs=0.6)
    assert 0.05 < share < 0.25


def test_nulls_give_few_false_verdicts() -> None:
    """Equal models whose trainings differ by chance: at most 5 % of 200 studies claim anything."""
    false = 0
    for root in range(200):
        runs = made_up({"base": 0.7, "same": 0.7}, seeds=3, images=20, root=root, sway=0.04, classes=1)
        found = compare(runs, boot=50)
        false += any(not c.verdict.startswith("no evidence") for c in found)
    assert false <= 10


def test_equal_runs() -> None:
    """The same net twice: nothing at all, and no division by zero."""
    runs = made_up({"base": 0.7}, seeds=2, images=20)
    found = compare({**runs, "same": runs["base"]})
    assert [(c.difference, c.low, c.high, c.p_holm) for c in found] == [(0, 0, 0, 1)] * 2
    assert found[0].verdict == "no evidence of a difference (+0.0 to +0.0 points)"


def test_interval_knows_of_seeds() -> None:
    """Trainings that differ widen the interval by Student's t; of one seed only images are known."""
    points = np.array([[0.5, 0.3], [0.6, 0.3], [0.7, 0.3]])
    still = np.repeat(points[:, None], 20_000, 1)  # no spread over images
    found = verdict.estimate(points, still, 100, np.random.default_rng(0))
    by_hand = 4.303 * 0.1 / np.sqrt(3)  # t of two degrees of freedom, standard deviation, three values
    assert found.high[0] - found.mean[0] == pytest.approx(by_hand, rel=0.02)
    assert (found.low[1], found.high[1]) == pytest.approx((0.3, 0.3))
    one = verdict.estimate(points[:1], still[:1], 100, np.random.default_rng(0))
    assert one.low[0] == one.high[0] == pytest.approx(0.5)


def test_groups_stay_together() -> None:
    files = ["a/10_1.png", "a/10_2.png", "b/7_1.png", "plain.png"]
    groups = group_numbers(files, r"^(\d+)_")
    assert groups[0] == groups[1]
    assert len(set(groups)) == 3
    assert len(set(group_numbers(files, None))) == 4
    counts = verdict.draw_images(groups, 50, np.random.default_rng(0))
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 0] != counts[:, 2]).any()
    # Four images of a group are copies of one: as one group they tell as much as one image, not as four.
    runs = made_up({"base": 0.7, "other": 0.7}, seeds=1, images=640)
    for run in (r for by in runs.values() for r in by.values()):
        for name in ("tp", "conf", "pred_cls", "target_cls"):
            setattr(run, name, [getattr(run, name)[i - i % 4] for i in range(640)])
    alone, together = (compare(runs, groups)[0] for groups in (None, r"^(\d+)_"))
    assert 1.6 < (together.high - together.low) / (alone.high - alone.low) < 2.7
    assert together.p > alone.p or together.p > 0.05


def test_swaps_against_all_of_them() -> None:
    """With six images the p of random swaps is near that of all 64, counted with the host's own function."""
    runs = made_up({"base": 0.4, "other": 0.95}, seeds=1, images=6)
    a, b = runs["other"][0], runs["base"][0]

    def swapped(z: tuple[int, ...]) -> float:
        sides = []
        for first, second in ((a, b), (b, a)):
            names = ("files", "tp", "conf", "pred_cls", "target_cls")
            sides.append(ImageStats(*([getattr(second if z[i] else first, n)[i] for i in range(6)] for n in names)))
        return float((mean_ap(sides[0]) - mean_ap(sides[1]))[0])

    every = np.array([swapped(z) for z in itertools.product((0, 1), repeat=6)])
    exact = (np.abs(every) >= abs(every[0]) - 1e-12).mean()
    p = verdict.swap_p([a], [b], np.arange(6), 2000, np.random.default_rng(0))[0]
    assert exact < 0.5
    assert p == pytest.approx(exact, abs=0.03)


def test_correction_leaves_room() -> None:
    """Of ever so many comparisons, as few resamples as may be still allow a verdict on a great difference."""
    runs = made_up({"base": 0.3} | {f"m{i}": 0.95 for i in range(8)}, seeds=3, images=20, classes=1)
    found = compare(runs, boot=20)
    assert len(found) == 16
    assert all(c.verdict.startswith("better by ") for c in found)


def test_holm() -> None:
    """By hand: 0.01 x 4, 0.02 x 3, then never smaller than the one before."""
    np.testing.assert_allclose(verdict.holm([0.03, 0.01, 0.02, 0.9]), [0.06, 0.04, 0.06, 0.9])
    np.testing.assert_allclose(verdict.holm([0.9, 0.8]), [1, 1])
    assert len(verdict.holm([])) == 0


def test_steps() -> None:
    """Three nets, each compared with the one before: the two differences add up to that of the ends."""
    runs = made_up({"a": 0.5, "b": 0.6, "c": 0.7}, seeds=2, images=60)
    data = verdict.DataSet("set", runs, group_numbers([str(i) for i in range(60)], None))
    pairs = [("b", "a"), ("c", "b"), ("c", "a"), ("gone", "a")]
    found = {
        (c.model, c.baseline): c.difference for c in verdict.judge([data], pairs, boot=50)[1] if c.measure == "mAP50"
    }
    assert list(found) == pairs[:3]
    assert found["c", "a"] == pytest.approx(found["b", "a"] + found["c", "b"])
    assert found["c", "a"] > 5


def test_no_verdict_on_one_seed() -> None:
    """However great the difference; nor does it count among the comparisons that are corrected for."""
    runs = made_up({"base": 0.3, "one": 0.95, "two": 0.95}, seeds=2, images=60)
    del runs["one"][1]
    one, _, two, _ = compare(runs)
    assert (one.model, one.seeds, two.model, two.seeds) == ("one", 1, "two", 2)
    assert one.low > 10
    assert one.verdict.startswith("no verdict on one seed (+")
    assert two.verdict.startswith("better by ")
    assert two.p_holm <= 2 * two.p


@pytest.mark.parametrize(
    ("low", "high", "p", "sentence"),
    [
        (1.12, 2.88, 0.01, "better by 1.1 to 2.9 points"),
        (-2.88, -1.12, 0.01, "worse by 1.1 to 2.9 points"),
        (-0.8, 1.1, 0.01, "no evidence of a difference (-0.8 to +1.1 points)"),
        (0.1, 2.0, 0.06, "no evidence of a difference after correction (+0.1 to +2.0 points)"),
    ],
)
def test_sentences(low: float, high: float, p: float, sentence: str) -> None:
    assert verdict.Comparison("d", "m", "base", "mAP50", 0.0, low, high, p, p, 3).verdict == sentence


def test_other_images() -> None:
    runs = made_up({"base": 0.7, "other": 0.7}, seeds=1, images=8)
    runs["other"][0].files[3] = "elsewhere.png"
    with pytest.raises(DataError, match=r"^set: other, seed 0: expected the images and labels that base, seed 0 was"):
        compare(runs)
