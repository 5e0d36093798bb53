"""Box sizes: read through the host, clustered, judged by hand-made sets whose answer is known; the picture."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from ultra_dsmoe.data import box_sizes
from ultra_dsmoe.data.box_sizes import Boxes, advise, cluster, levels, read_boxes
from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.explain.plots.box_sizes import draw

Write = Callable[..., Path]


@pytest.fixture
def write_set(tmp_path: Path) -> Write:
    """Return a function that writes a set: per split a list of (image (w, h), boxes (w, h) as shares)."""

    def write(**splits: list[tuple[tuple[int, int], list[tuple[float, float]]]]) -> Path:
        for split, images in splits.items():
            for kind in ("images", "labels"):
                (tmp_path / kind / split).mkdir(parents=True)
            for i, ((width, height), boxes) in enumerate(images):
                cv2.imwrite(str(tmp_path / "images" / split / f"{i}.png"), np.zeros((height, width), np.uint8))
                text = "".join(f"{n % 2} 0.5 0.5 {w} {h}\n" for n, (w, h) in enumerate(boxes))
                (tmp_path / "labels" / split / f"{i}.txt").write_text(text)
        content = {"path": str(tmp_path), "names": ["a", "b"], "train": "images/train", "val": "images/val"}
        if "test" in splits or "absent" in splits:
            content["test"] = "images/test" if "test" in splits else "images/nowhere"
        (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "data.yaml"

    return write


def boxes_of(sides: list[tuple[float, float]], imgsz: int = 640) -> Boxes:
    return Boxes(np.array(sides, dtype=float), np.array([imgsz]), {"train": len(sides)}, imgsz)


def test_labels_become_pixels_after_the_resize(write_set: Write) -> None:
    """A 200 x 100 image becomes 640 x 320, a 50 x 100 one 320 x 640."""
    data = write_set(
        train=[((200, 100), [(0.5, 0.5), (0.1, 0.2)]), ((50, 100), [(0.5, 0.5)])], val=[((64, 64), [(1, 1)])]
    )
    found = read_boxes(str(data), 640)
    expected = [(64, 64), (160, 320), (320, 160), (640, 640)]
    np.testing.assert_allclose(sorted(map(tuple, found.sizes)), expected, rtol=1e-5)
    assert sorted(found.longest) == [64, 100, 200]
    assert found.per_split == {"train": 3, "val": 1}
    np.testing.assert_allclose(read_boxes(str(data), 320).sizes.max(), 320, rtol=1e-5)


def test_all_splits_with_labels_count_and_a_test_split_elsewhere_does_not(write_set: Write) -> None:
    one = [((64, 64), [(0.5, 0.5)])]
    assert read_boxes(str(write_set(train=one, val=[((64, 64), [])], test=one))).per_split == {"train": 1, "test": 1}


def test_a_test_split_that_is_not_here_is_left_out(write_set: Write) -> None:
    one = [((64, 64), [(0.5, 0.5)])]
    assert read_boxes(str(write_set(train=one, val=one, absent=one))).per_split == {"train": 1, "val": 1}


def test_sets_without_boxes_or_images_are_one_line(write_set: Write, tmp_path: Path) -> None:
    data = write_set(train=[((64, 64), [])], val=[((64, 64), [])])
    with pytest.raises(DataError, match=r"data: expected labelled boxes in at least one split, got .*data\.yaml"):
        read_boxes(str(data))
    content = yaml.safe_load(data.read_text())
    for change in ({"val": "images/none"}, {"train": "images/none"}, {"names": None}):
        data.write_text(yaml.safe_dump(content | change))
        with pytest.raises(DataError, match="data: expected") as caught:
            read_boxes(str(data))
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="data: expected a data YAML"):
        read_boxes(str(tmp_path / "none.yaml"))


def test_damaged_labels_are_left_out_as_in_training(write_set: Write, tmp_path: Path) -> None:
    data = write_set(train=[((64, 64), [(0.5, 0.5)])] * 2, val=[((64, 64), [(0.25, 0.25)])])
    (tmp_path / "labels" / "train" / "1.txt").write_text("0 0.5 0.5 7 7\n")
    assert read_boxes(str(data)).per_split == {"train": 1, "val": 1}


def test_clusters_of_planted_groups() -> None:
    rng = np.random.default_rng(0)
    planted = np.array([(10, 20), (40, 30), (200, 300)])
    counts = (60, 30, 10)
    clouds = [c * np.exp(rng.normal(0, 0.05, (n, 2))) for c, n in zip(planted, counts, strict=True)]
    found = cluster(np.concatenate(clouds[::-1]), 3)
    np.testing.assert_allclose(found.centres, planted, rtol=0.05)
    np.testing.assert_allclose(found.shares, [0.6, 0.3, 0.1])
    assert found.members.tolist() == [2] * 10 + [1] * 30 + [0] * 60


def test_a_centre_is_the_geometric_mean() -> None:
    found = cluster(np.array([[10.0, 40.0], [40.0, 10.0]]), 1)
    np.testing.assert_allclose(found.centres, [[20, 20]])


def test_more_clusters_than_sizes_and_no_scikit_learn_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = np.array([[1.0, 2.0]] * 5 + [[2.0, 1.0]])
    with pytest.raises(ConfigError, match="clusters: expected at most 2, the number of different box sizes, got 3"):
        cluster(sides, 3)
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ConfigError, match=r"pip install 'ultra-dsmoe\[data\]'"):
        cluster(sides, 1)


def test_as_many_clusters_as_there_are_sizes_unless_a_number_is_given() -> None:
    alike = np.array(
        [[64.00001, 64.0], [64.0, 63.99999], [64.0, 64.0]]
    )  # one size, as six decimals of a label round it
    assert cluster(alike).shares.tolist() == [1.0]
    assert len(cluster(np.concatenate([alike, 2 * alike])).centres) == 2
    assert len(cluster(np.arange(1.0, 41.0).reshape(20, 2)).centres) == box_sizes.CLUSTERS
    with pytest.raises(ConfigError, match="clusters: expected at most 1, the number of different box sizes, got 9"):
        cluster(alike, 9)


def test_levels_by_size() -> None:
    sides = np.array([(5, 5), (31, 31), (32, 32), (16, 64), (63, 63), (64, 64), (127, 127), (128, 128), (900, 900)])
    assert levels(sides.astype(float)).tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3]
    assert levels(sides.astype(float), ("P3", "P4", "P5")).tolist() == [0, 0, 0, 0, 0, 1, 1, 2, 2]


def test_p2_pays_from_a_tenth_of_tiny_boxes_on() -> None:
    for tiny, pays in ((9, False), (10, True)):
        advice = advise(boxes_of([(15, 15)] * tiny + [(50, 50)] * (100 - tiny)))
        assert advice.tiny == pytest.approx(tiny / 100)
        assert advice.p2 is pays
        assert advice.levels[0] == pytest.approx({"P2": tiny / 100, "P3": 1 - tiny / 100, "P4": 0, "P5": 0})
        assert advice.levels[1] == pytest.approx({"P3": 1, "P4": 0, "P5": 0})


def test_image_size_brings_the_small_ones_to_the_limit() -> None:
    """All boxes of 10 px at 640 reach 16 px at 1024, and 8 px at 512."""
    assert advise(boxes_of([(10, 10)] * 50)).imgsz == (1024, 512)
    assert advise(boxes_of([(10.2, 10.2)] * 50)).imgsz == (1024, 512)  # 1003.9 and 501.96, up to multiples of 32
    assert advise(boxes_of([(1, 1)] * 2 + [(16, 16)] * 98)).imgsz[0] == 640  # the smallest 2 % do not count


def test_reach_in_strides_of_the_level() -> None:
    """8 x 480 has root 62, hence P3 at stride 8: 240 / 8 = 30 strides; 640 x 640 on P5: 10."""
    advice = advise(boxes_of([(640, 640)] * 9 + [(8, 480)]))
    assert advice.reach[1] == pytest.approx(30)
    assert advice.reg_max > box_sizes.REG_MAX
    advice = advise(boxes_of([(640, 640)] * 9))
    assert advice.reach == pytest.approx((10, 10))
    assert advice.reg_max == 11  # bins 0 to 10


def test_picture_shows_boxes_and_the_tiny_share() -> None:
    def ink(png: bytes, colour: tuple[int, int, int]) -> int:
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
        right = pixels[:, pixels.shape[1] // 2 :]
        return int((np.abs(right - colour).max(-1) < 8).sum())

    orange = (213, 94, 0)
    rng = np.random.default_rng(0)
    pictures = []
    for scale in (10, 60):
        boxes = boxes_of(list(map(tuple, scale * np.exp(rng.normal(0, 0.3, (200, 2))))))
        pictures.append(draw(boxes, cluster(boxes.sizes, 3), "t"))
    assert Image.open(io.BytesIO(pictures[0])).size == (1800, 780)
    assert ink(pictures[0], orange) > 20 * ink(pictures[1], orange)
    alone = boxes_of([(20, 20)])
    assert draw(alone, cluster(alone.sizes, 1), "one box")[:4] == b"\x89PNG"


@pytest.mark.realdata
def test_real_boards_and_steel(shared_data: Callable[[str], Path]) -> None:
    """DeepPCB's defects are small and NEU-DET's large; its paper's 640 px images need no stride-4 level, half do."""
    boards = str(shared_data("DeepPCB-mini"))
    assert not advise(read_boxes(boards, 640)).p2
    assert advise(read_boxes(boards, 320)).p2
    steel = advise(read_boxes(str(shared_data("NEU-DET-mini")), 640))
    assert steel.levels[1]["P5"] > 0.5
    assert not steel.p2
