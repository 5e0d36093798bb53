"""The generated set: how hard it is, what is in it, determinism, writing that is all or nothing, drawing on demand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ultra_dsmoe.data.hits import demo, record
from ultra_dsmoe.data.hits.demo import draw_sample, generate, provide
from ultra_dsmoe.data.hits.distribution import CLASSES, class_of_each
from ultra_dsmoe.errors import DSMoEError


def files(root: Path) -> dict[str, bytes]:
    return {f.relative_to(root).as_posix(): f.read_bytes() for f in root.rglob("*") if f.is_file()}


# how hard it is


def table(split: str, count: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the moments of the records of a split, and the classes by number."""
    kinds = class_of_each(count)
    records = [record.measure(draw_sample(i, kind, split=split, spread=spread)) for i, kind in enumerate(kinds)]
    names = list(CLASSES)
    return np.array([[r[m] for m in record.MOMENTS] for r in records]), np.array([names.index(k) for k in kinds])


def discriminant_f1(spread: float) -> float:
    """Return the macro F1 of a quadratic discriminant that learns from 325 records, on 2000 others."""
    values, kinds = table("train", demo.TRAIN, spread)
    tests, truth = table("test", demo.TEST, spread)
    scores = []
    for kind in range(len(CLASSES)):
        own = values[kinds == kind]
        cov, off = np.cov(own.T), tests - own.mean(0)
        distance = (off @ np.linalg.inv(cov) * off).sum(1)
        scores.append(np.log(len(own)) - (np.linalg.slogdet(cov)[1] + distance) / 2)
    guess = np.argmax(scores, 0)
    f1 = [
        2 * ((guess == k) & (truth == k)).sum() / ((guess == k).sum() + (truth == k).sum()) for k in range(len(CLASSES))
    ]
    return float(np.mean(f1))


def test_records_tell_most_classes_at_the_default_spread() -> None:
    assert 0.8 < discriminant_f1(demo.SPREAD) < 0.88


def test_records_tell_every_class_without_a_spread() -> None:
    assert discriminant_f1(0) > 0.99


# what is in it


@pytest.fixture(scope="module")
def a_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("hits") / "set", 24, 6, 9, seed=5)


def test_layout_and_shares(a_set: Path) -> None:
    for split, count in (("train", 24), ("val", 6), ("test", 9)):
        assert {f.name for f in (a_set / split).iterdir()} == set(CLASSES)
        images = sorted((a_set / split).glob("*/*.png"))
        assert Counter(f.parent.name for f in images) == Counter(class_of_each(count))
        assert sorted(f.name for f in images) == [f"hits_{i:05d}.png" for i in range(count)]
        assert {f.with_suffix(".json") for f in images} == set((a_set / split).glob("*/*.json"))


def test_records_and_pictures_are_those_of_the_hits_drawn(a_set: Path) -> None:
    for i, kind in enumerate(class_of_each(24)):
        image = a_set / "train" / kind / f"hits_{i:05d}.png"
        points = draw_sample(i, kind, seed=5)
        assert record.read(image) == record.measure(points)
        assert list(record.read(image)) == list(record.KEYS)
        rows, columns = np.nonzero((cv2.imread(str(image)) == (180, 105, 255)).all(-1))
        assert image.stat().st_size < 12_000
        # Dots cover each other, mostly in the middle: the picture's own mean is near the record's, not the same.
        middle = np.array([columns.mean() - 112, 112 - rows.mean()]) / 5
        assert middle == pytest.approx(points.mean(0), abs=0.5)


def test_names_tell_nothing_of_the_class(a_set: Path) -> None:
    for file in a_set.glob("*/*/*"):
        assert file.parent.name not in file.name
        if file.suffix == ".json":
            assert set(json.loads(file.read_text())) == {"record"}
            assert not [kind for kind in CLASSES if kind in file.read_text()]


def test_the_host_reads_it(a_set: Path) -> None:
    from ultralytics.data.utils import check_cls_dataset

    found = check_cls_dataset(str(a_set))
    assert list(found["names"].values()) == sorted(CLASSES)
    assert Path(found["test"]) == a_set / "test"


# determinism


def test_a_larger_set_contains_a_smaller_one_and_another_seed_or_split_differs(a_set: Path, tmp_path: Path) -> None:
    small, other = generate(tmp_path / "small", 10, 5, 5, seed=5), generate(tmp_path / "other", 10, 5, 5, seed=6)
    part = {name: content for name, content in files(small).items() if name != demo.PROOF}
    assert len(part) == 40
    assert part.items() <= files(a_set).items()
    assert not set(part.values()) & set(files(other).values())
    assert len(set(part.values())) == 40


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    here = generate(tmp_path / "here", 6, 5, 5, size=128)
    code = f"from ultra_dsmoe.data.hits.demo import generate; generate(r'{tmp_path / 'there'}', 6, 5, 5, size=128)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONHASHSEED": "77", "PATH": ""}, timeout=120)
    assert files(here) == files(tmp_path / "there")


# limits


@pytest.mark.parametrize(
    "argument",
    [{"train": 4}, {"val": 0}, {"test": 2.5}, {"seed": -1}, {"size": 64}, {"size": True}, {"spread": -0.1},
     {"spread": 4}, {"spread": float("nan")}],
)  # fmt: skip
def test_numbers_out_of_range_name_the_argument(argument: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DSMoEError, match=f"^{next(iter(argument))}: expected a (whole )?number (of at least|from) "):
        generate(tmp_path / "set", **{"train": 5, "val": 5, "test": 5, **argument})
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("keep")
    for make in (generate, provide):
        with pytest.raises(DSMoEError, match="a new or empty folder"):
            make(tmp_path / "set")
    assert [f.name for f in tmp_path.rglob("*")] == ["set", "mine.txt"]


def test_an_interrupted_run_leaves_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = demo.draw_sample

    def stop(index: int, *words: Any, **more: Any) -> np.ndarray:
        if index == 3:
            raise KeyboardInterrupt
        return real(index, *words, **more)

    monkeypatch.setattr(demo, "draw_sample", stop)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "set", 5, 5, 5)
    assert not list(tmp_path.iterdir())


# drawing on demand


def test_a_missing_set_is_drawn_and_one_that_is_here_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "__defaults__", (5, 5, 5, 42, 96, 1.0, None))
    root = provide(tmp_path / "sets" / "hits-demo")
    assert root == tmp_path / "sets" / "hits-demo"
    assert files(root) == files(generate(tmp_path / "same"))
    (root / demo.PROOF).unlink()  # as of a copy that somebody made of the three folders
    before = {f: os.stat(f).st_mtime_ns for f in root.rglob("*")}
    assert provide(root) == root
    assert {f: os.stat(f).st_mtime_ns for f in root.rglob("*")} == before
