"""Pairs from the host's loader: each image with its own reference, moved alike, in every kind of cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from reference_sets import negative_set, write_negative
from ultralytics.cfg import get_cfg
from ultralytics.data.build import build_yolo_dataset
from ultralytics.data.utils import check_det_dataset

from ultra_dsmoe.data import lmdb_cache
from ultra_dsmoe.data.reference.choice import chosen
from ultra_dsmoe.data.reference.dataset import ReferenceDataset
from ultra_dsmoe.data.reference.in_force import attach
from ultra_dsmoe.data.reference.references import References
from ultra_dsmoe.errors import DataError

SIZE, BAR = 64, 114
STILL = {
    **dict.fromkeys(("hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr", "mosaic"), 0.0),
    "deterministic": False,
}
Make = Callable[..., Any]


@pytest.fixture
def pairs(tiny_boards: Path, tmp_path: Path) -> Path:
    """Return the data YAML of a set whose references are negatives."""
    return negative_set(tiny_boards, tmp_path / "set")


def dataset_of(data: Path, mode: str = "val", alone: bool = False, rect: bool = False, **arguments: Any) -> Any:
    cfg = get_cfg(overrides={"imgsz": SIZE, "task": "detect", **STILL, **arguments})
    table = check_det_dataset(str(data))
    spec = chosen(table, Path(table["path"]))
    assert spec is not None
    table = table if alone else attach(table, References(spec, table["channels"]))
    dataset = build_yolo_dataset(cfg, table[mode], 4, table, mode=mode, rect=rect)
    if lmdb_cache.is_wanted(cfg):
        lmdb_cache.use_lmdb(dataset, cfg)
    return dataset


def halves_of(pair: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image, reference = np.split(np.asarray(pair).astype(int), 2)
    return image, reference


def require_negatives(dataset: Any, tolerance: int = 1, share: float = 1.0) -> None:
    """Check that each reference is the negative of its image, wherever both are no bars."""
    for i in range(len(dataset)):
        image, reference = halves_of(dataset[i]["img"])
        bars = (image == BAR) & (reference == BAR)
        assert bars.mean() < 0.9
        assert (np.abs(image + reference - 255)[~bars] <= tolerance).mean() >= share, dataset.im_files[i]


def test_a_pair_is_the_hosts_image_and_its_reference(pairs: Path) -> None:
    dataset, alone = dataset_of(pairs), dataset_of(pairs, alone=True)
    assert isinstance(dataset, ReferenceDataset)
    assert not isinstance(alone, ReferenceDataset)
    for i in range(len(alone)):
        pair, item = dataset[i], alone[i]
        assert pair["img"].shape == (6, SIZE, SIZE)
        np.testing.assert_array_equal(pair["img"][:3], item["img"])
        np.testing.assert_array_equal(pair["bboxes"], item["bboxes"])
    require_negatives(dataset)


def test_gray_sets_have_pairs_of_two_channels(pairs: Path) -> None:
    content = {**yaml.safe_load(pairs.read_text()), "channels": 1}
    pairs.write_text(yaml.safe_dump(content))
    dataset = dataset_of(pairs, mode="train")
    assert dataset[0]["img"].shape == (2, SIZE, SIZE)
    require_negatives(dataset, tolerance=5)  # a JPEG's own gray differs by a few steps from that of its colours


def test_references_follow_their_images_whatever_their_order(pairs: Path) -> None:
    """Another form of some images for `set_rectangle`, a damaged one that the host leaves out, a part, some classes."""
    root = pairs.parent
    files = sorted((root / "images" / "train").glob("*.*"))
    for file, size in zip(files, [(96, 48), (48, 96), (80, 96)], strict=False):
        cv2.imwrite(str(file), cv2.resize(cv2.imread(str(file)), size))
        write_negative(root, file)
    files[3].write_bytes(b"no picture")
    whole = dataset_of(pairs, "train", rect=True)
    assert len(whole) == len(files) - 1
    assert whole.im_files != sorted(whole.im_files)
    require_negatives(whole, tolerance=2)
    part = dataset_of(pairs, "train", fraction=0.5, classes=[1], single_cls=True)
    assert len(part) == len(files) // 2 - 1
    require_negatives(part, tolerance=2)


def test_bars_are_gray_in_both_halves(pairs: Path) -> None:
    """Hosts before 8.4.1xx leave every fourth channel black where a warp uncovers the ground."""
    root = pairs.parent
    for file in (root / "images").rglob("*.jpg"):
        cv2.imwrite(str(file.with_suffix(".png")), np.full((96, 48, 3), 200, np.uint8))
        write_negative(root, file.with_suffix(".png"))
        file.unlink()
    assert set(np.unique(dataset_of(pairs)[0]["img"])) == {55, BAR, 200}
    item = dataset_of(pairs, "train", scale=0.5, degrees=20.0)[0]["img"].numpy()
    assert item.min() == 55
    for channel in item:
        assert (channel == BAR).mean() > 0.2


@pytest.mark.parametrize(
    "moves",
    [
        {"mosaic": 1.0, "degrees": 10.0, "scale": 0.5, "translate": 0.2, "shear": 5.0},
        {"perspective": 0.001, "fliplr": 0.5, "flipud": 0.5},
        {"mosaic": 1.0, "mixup": 1.0},
    ],
    ids=["mosaic and warp", "perspective and flips", "mixup"],
)
def test_both_halves_move_together(pairs: Path, moves: dict[str, float]) -> None:
    require_negatives(
        dataset_of(pairs, "train", **moves), tolerance=3, share=0.85
    )  # at edges of bars they mix with gray


def test_a_training_changes_pairs_and_a_validation_does_not(tiny_boards: Path, tmp_path: Path) -> None:
    data = negative_set(tiny_boards, tmp_path / "set", drop=1, noise=4)
    _, reference = halves_of(dataset_of(data, "train")[0]["img"])
    assert not reference.any()
    require_negatives(dataset_of(data))


# caches ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["ram", "disk", "lmdb"])
@pytest.mark.parametrize("mode", ["train", "val"])
def test_caches_hold_pairs(pairs: Path, mode: str, cache: str) -> None:
    plain = dataset_of(pairs, mode)
    for _ in range(2):  # written, then read
        dataset = dataset_of(pairs, mode, cache=cache)
        for i in range(len(plain)):
            np.testing.assert_array_equal(dataset.load_image(i)[0], plain.load_image(i)[0])
            assert dataset.load_image(i)[1:] == plain.load_image(i)[1:]
        require_negatives(dataset)


def test_cached_images_on_disk_stay_the_hosts(pairs: Path) -> None:
    dataset = dataset_of(pairs, cache="disk")
    for file in dataset.npy_files:
        assert np.load(file).shape[2] == 3
    alone = dataset_of(pairs, alone=True, cache="disk")
    assert alone[0]["img"].shape[0] == 3
    assert sorted(dataset_of(pairs, cache="disk").im_files) == sorted(dataset.im_files)


@pytest.mark.parametrize("cache", ["disk", "lmdb"])
def test_a_changed_reference_is_cached_anew(pairs: Path, cache: str) -> None:
    first = dataset_of(pairs, cache=cache)
    file = first.references.find(first.im_files[0])
    cv2.imwrite(str(file), np.full((96, 96, 3), 7, np.uint8))
    os.utime(file, ns=(1, 1))  # older than all that is cached
    lmdb_cache.close_readers()
    again = dataset_of(pairs, cache=cache)
    _, reference = halves_of(again[0]["img"])
    assert np.unique(reference).tolist() == [7]
    require_other_negatives = [halves_of(again[i]["img"]) for i in range(1, len(again))]
    assert all(np.abs(image + reference - 255).max() <= 1 for image, reference in require_other_negatives)


@pytest.mark.parametrize("cache", ["disk", "lmdb"])
def test_pairs_of_other_channels_are_cached_anew(pairs: Path, cache: str) -> None:
    dataset_of(pairs, cache=cache)
    pairs.write_text(yaml.safe_dump({**yaml.safe_load(pairs.read_text()), "channels": 1}))
    gray = dataset_of(pairs, cache=cache)
    assert gray[0]["img"].shape == (2, SIZE, SIZE)
    require_negatives(gray, tolerance=5)


def test_a_damaged_file_of_the_cache_is_written_anew(pairs: Path) -> None:
    dataset = dataset_of(pairs, cache="disk")
    (kept, *_) = sorted(Path(dataset.im_files[0]).parent.glob("*.reference.npz"))
    kept.write_bytes(b"no array")
    require_negatives(dataset_of(pairs, cache="disk"))
    assert kept.stat().st_size > 100


def test_images_and_pairs_have_lmdb_files_of_their_own(pairs: Path) -> None:
    dataset, alone = dataset_of(pairs, cache="lmdb"), dataset_of(pairs, alone=True, cache="lmdb")
    assert alone.ims.path != dataset.ims.path
    assert alone[0]["img"].shape[0] == 3
    assert dataset[0]["img"].shape[0] == 6


# what is wrong --------------------------------------------------------------------------------------------------------


def test_a_missing_reference_is_said_before_anything_is_cached(pairs: Path) -> None:
    missing = next((pairs.parent / "golden" / "val").glob("*.png"))
    missing.unlink()
    with pytest.raises(DataError, match=r"1 of 4 missing"):
        dataset_of(pairs, cache="disk")
    assert not list(pairs.parent.rglob("*.npy"))


def test_missing_references_may_be_blank(tiny_boards: Path, tmp_path: Path) -> None:
    data = negative_set(tiny_boards, tmp_path / "set", missing="blank")
    missing = next((data.parent / "golden" / "val").glob("*.png"))
    missing.unlink()
    for cache in (False, "disk", "lmdb"):
        dataset = dataset_of(data, cache=cache)
        blank = [not halves_of(dataset[i]["img"])[1].any() for i in range(len(dataset))]
        assert [Path(file).stem == missing.stem for file in dataset.im_files] == blank
