"""Defect sizes against experts: counts and information by hand, planted dependences on size and on class alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ultra_dsmoe.evaluate.label_sizes import label_sizes
from ultra_dsmoe.explain.plots.routing_sizes import beyond, draw, sentence
from ultra_dsmoe.explain.routing import information, mutual_information, routing_map
from ultra_dsmoe.explain.routing_sizes import permuted_within, size_classes, size_information, size_map

IMAGES, EXPERTS = 80, 4


def joined(classes: Any, sizes: Any, chosen: Any, shuffles: int = 200) -> Any:
    weights = np.eye(EXPERTS)[chosen]
    routes = routing_map(weights, [np.array(c) for c in classes], list("abc"), text=False, shuffles=20, seed=0)
    return size_map(routes, [np.array(s, float) for s in sizes], shuffles=shuffles, seed=0)


def planted(kind: Any, seed: int = 0) -> Any:
    """Return a map where experts follow the size, follow the class (as sizes do), or neither; a defect per image."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 2, IMAGES)
    sizes = rng.uniform(8, 16, IMAGES) + 10 * classes * (kind == "class")
    chosen = {"size": (sizes > np.median(sizes)).astype(int), "class": classes, "none": rng.integers(0, 2, IMAGES)}
    return joined(classes[:, None], sizes[:, None], chosen[kind])


def test_quartiles_part_sizes_and_keep_equal_ones_together() -> None:
    classes, ranges = size_classes(np.array([9.0, 1, 2, 8, 3, 7, 4, 6]))
    assert classes.tolist() == [3, 0, 0, 3, 1, 2, 1, 2]
    assert ranges.tolist() == [[1, 2], [3, 4], [6, 7], [8, 9]]
    classes, ranges = size_classes(np.array([5.0, 7, 7, 7, 7, 8, 8, 3]))
    assert classes.tolist() == [0, 1, 1, 1, 1, 2, 2, 0]
    assert ranges.tolist() == [[3, 5], [7, 7], [8, 8]]
    assert size_classes(np.full(3, 4.0))[1].tolist() == [[4, 4]]


def test_rows_are_images_weighted_by_their_defects() -> None:
    # Image 0 has three small defects and goes to expert 0; image 1 a small and two large ones, to expert 1.
    sizes = joined([[0, 0, 0], [0, 0, 0], []], [[1, 1, 1], [1, 9, 9], []], [0, 1, 2])
    assert sizes.rows == ["1-1 px", "9-9 px"]
    assert sizes.counts.tolist() == [[3, 0], [1, 2], [0, 0]]
    assert sizes.images.tolist() == [2, 1]
    np.testing.assert_allclose(sizes.share, [[0.75, 0.25, 0, 0], [0, 1, 0, 0]])
    np.testing.assert_allclose(sizes.mean_weight, sizes.share)  # one expert per image, at weight 1
    np.testing.assert_allclose(sizes.usage, [1 / 3, 1 / 3, 1 / 3, 0])
    assert sizes.size_bits == pytest.approx(-(2 / 3) * np.log2(2 / 3) - (1 / 3) * np.log2(1 / 3))
    joint = np.array([[3, 1], [0, 2]]) / 6
    assert sizes.bits == pytest.approx(information(joint))


def test_information_by_hand() -> None:
    two = np.eye(2)
    assert size_information(5 * two, two) == pytest.approx(1)  # how many defects an image has changes nothing here
    assert size_information(np.ones((2, 2)), two) == pytest.approx(0, abs=1e-12)
    # Unlike with classes, an image of three defects counts three times: joint 3/4 and 1/4 on the diagonal.
    expected = -0.75 * np.log2(0.75) - 0.25 * np.log2(0.25)
    assert size_information(np.diag([3.0, 1.0]), two) == pytest.approx(expected)
    assert mutual_information(np.diag([3.0, 1.0]) > 0, two > 0) == pytest.approx(1)


def test_size_is_told_from_chance_and_from_class() -> None:
    size, by_class, none = (planted(kind) for kind in ("size", "class", "none"))
    assert size.depends_on_size
    assert size.beyond_class
    assert size.bits == pytest.approx(1)  # which half, of four quarters
    assert by_class.depends_on_size
    assert not by_class.beyond_class
    np.testing.assert_allclose(by_class.shuffled_alike, by_class.bits)  # within a class all routes are the same
    assert not none.depends_on_size
    assert [sentence(s).startswith("Experts depend on the defect size") for s in (size, by_class, none)] == [1, 1, 0]
    assert [beyond(s).startswith("Size, or what goes with it, adds") for s in (size, by_class, none)] == [1, 0, 0]
    flags = [planted("none", seed).depends_on_size for seed in range(20)]
    assert sum(flags) <= 4  # one in twenty by construction


def test_images_without_partner_are_said() -> None:
    classes = [[0], [1], [2], [0, 1], [0, 2], [1, 2]]
    sizes = joined(classes, [[i] * len(c) for i, c in enumerate(classes, 1)], [0, 1, 2, 3, 0, 1])
    assert sizes.alike == 0
    assert beyond(sizes).startswith("Whether size adds to what the class says cannot be told: only 0 %")
    assert planted("none").alike == 1


def test_one_size_leaves_nothing_to_compare() -> None:
    sizes = joined([[0], [1], [2]], [[4], [4], [4]], [0, 1, 2])
    assert sizes.bits == sizes.size_bits == 0
    assert sentence(sizes) == "Most defects have one size: there is nothing to compare"
    assert beyond(sizes) == ""
    assert draw(sizes, "a title").startswith(b"\x89PNG")


def test_permutation_stays_within_groups() -> None:
    groups = np.random.default_rng(0).integers(0, 5, 60)
    orders = [permuted_within(groups, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    for order in orders:
        assert sorted(order) == list(range(60))
        np.testing.assert_array_equal(groups[order], groups)
    assert (orders[0] == orders[1]).all()
    assert (orders[0] != orders[2]).any()
    assert (orders[0] != np.arange(60)).mean() > 0.5


def test_picture_shows_a_dark_cell_where_the_share_is_high() -> None:
    dark, light = (
        cv2.imdecode(np.frombuffer(draw(planted(kind), "a title"), np.uint8), cv2.IMREAD_COLOR)
        for kind in ("size", "none")
    )
    assert min(dark.shape[:2]) > 500
    full = np.array([107, 48, 8])  # BGR of the colour map's end, 100 %
    counts = [(np.abs(p.astype(int) - full).max(-1) < 3).sum() for p in (dark, light)]
    assert counts[0] > 1000 + 3 * counts[1]


def test_label_sizes_are_pixels_of_the_resized_image(tmp_path: Path) -> None:
    names = {"wide.png": (50, 100), "tall.png": (80, 40), "clean.png": (64, 64)}
    labels = {"wide": "0 0.5 0.5 0.2 0.4\n0 0.5 0.5 0.1 0.2\n", "tall": "0 0.5 0.5 0.5 0.25\n", "clean": ""}
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name, (height, width) in names.items():
        cv2.imwrite(str(tmp_path / "images" / name), np.zeros((height, width, 3), np.uint8))
    for name, text in labels.items():
        (tmp_path / "labels" / f"{name}.txt").write_text(text)
    content = {"val": str(tmp_path / "images"), "names": {0: "pit"}, "nc": 1, "channels": 3}
    files = [str(tmp_path / "images" / name) for name in names]
    wide, tall, clean = label_sizes({"split": "val", "imgsz": 200}, content, files)
    np.testing.assert_allclose(wide, [40, 20], rtol=1e-5)  # 20 x 20 and 10 x 10 px, twice as large at 200
    np.testing.assert_allclose(tall, [20 * 2.5], rtol=1e-5)  # 20 x 20 px, 2.5 times as large
    assert clean.shape == (0,)
