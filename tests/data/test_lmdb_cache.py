"""The LMDB cache: the host's images, safe under workers, killed writers and changed pictures."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.data.build import build_yolo_dataset
from ultralytics.data.utils import check_det_dataset

from ultra_dsmoe.data import lmdb_cache
from ultra_dsmoe.errors import ConfigError, DataError

SIZE = 64
WRITER = """
import sys, time
from ultra_dsmoe.data import lmdb_cache
lmdb_cache.COMMIT = 2
entered = lmdb_cache._entered
def slowly(transaction, dataset, i):
    if i == 5:
        print("midst", flush=True)
        time.sleep(60)
    return entered(transaction, dataset, i)
lmdb_cache._entered = slowly
sys.path.insert(0, sys.argv[2])
from test_lmdb_cache import dataset_of
dataset = dataset_of(sys.argv[1], cache="lmdb")
lmdb_cache.use_lmdb(dataset, dataset.hyp_for_test)
"""
Cached = Callable[..., Any]


def dataset_of(data: str, mode: str = "val", **arguments: Any) -> Any:
    cfg = get_cfg(overrides={"imgsz": SIZE, "task": "detect", **arguments})
    table = check_det_dataset(data)
    dataset = build_yolo_dataset(cfg, table[mode], 4, table, mode=mode, rect=False)
    dataset.hyp_for_test = cfg
    return dataset


@pytest.fixture
def boards_copy(tiny_boards: Path, tmp_path: Path) -> Path:
    """Return the data YAML of a copy that a test may change."""
    shutil.copytree(tiny_boards.parent, tmp_path / "set")
    text = tiny_boards.read_text().replace(str(tiny_boards.parent), str(tmp_path / "set"))
    (tmp_path / "set" / tiny_boards.name).write_text(text)
    return tmp_path / "set" / tiny_boards.name


@pytest.fixture
def cached(boards_copy: Path) -> Cached:
    """Return a function that builds a data set of the host with a cache."""
    pytest.importorskip("lmdb")

    def make(mode: str = "train", **arguments: Any) -> Any:
        dataset = dataset_of(str(boards_copy), mode, cache="lmdb", **arguments)
        lmdb_cache.use_lmdb(dataset, dataset.hyp_for_test)
        return dataset

    return make


def test_images_are_the_hosts(cached: Cached, boards_copy: Path) -> None:
    stock = dataset_of(str(boards_copy), "train")
    dataset = cached()
    assert len(dataset) == len(stock) == 8
    for i in range(8):
        image, original, shape = dataset.load_image(i)
        expected, *sizes = stock.load_image(i)
        assert np.array_equal(image, expected)
        assert [original, shape] == sizes
        image[:] = 0  # the next reader is not harmed
        assert np.array_equal(dataset.load_image(i)[0], expected)


def test_mosaic_and_mixup_work(cached: Cached) -> None:
    dataset = cached(mosaic=1.0, mixup=1.0)
    assert all(dataset[i]["img"].shape == (3, SIZE, SIZE) for i in range(8))
    dataset.close_mosaic(dataset.hyp_for_test)
    assert dataset[0]["img"].shape == (3, SIZE, SIZE)


def test_workers_that_fork_beside_an_open_cache(cached: Cached) -> None:
    dataset, other = cached(), cached("val")
    expected = [dataset.load_image(i)[0].sum() for i in range(8)], other.load_image(0)[0].sum()
    for method in ("fork", "spawn"):
        loader = DataLoader(dataset.ims, 2, num_workers=2, collate_fn=np.stack, multiprocessing_context=method)
        assert [image.sum() for batch in loader for image in batch] == expected[0]
    assert other.load_image(0)[0].sum() == expected[1]


def test_a_second_run_writes_nothing_and_a_changed_picture_is_refused(
    cached: Cached, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("ultralytics.utils.LOGGER.info", said.append)
    monkeypatch.setattr("ultralytics.utils.LOGGER.warning", said.append)
    dataset = cached()
    path = lmdb_cache.cache_path(dataset)
    assert said[-1] == f"{path}: 8 of 8 images written"
    cached()
    assert said[-1] == f"{path}: 0 of 8 images written"
    file = Path(dataset.im_files[3])
    os.utime(file, (1, 1))  # touched, but the same
    cached()
    assert said[-1] == f"{path}: 0 of 8 images written"
    assert cv2.imwrite(str(file), 255 - cv2.imread(str(file)))
    old = dataset.load_image(3)[0]
    new = cached().load_image(3)[0]
    assert said[-2] == f"{path}: 1 of 8 images have changed since they were cached, cached anew"
    assert not np.array_equal(old, new)


def test_a_killed_writer_leaves_whole_images(cached: Cached, boards_copy: Path, tmp_path: Path) -> None:
    script = tmp_path / "writer.py"
    script.write_text(WRITER.replace('cache="lmdb"', '"train", cache="lmdb"'))
    command = [sys.executable, str(script), str(boards_copy), str(Path(__file__).parent)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert writer.stdout is not None
    deadline = time.monotonic() + 120
    while "midst" not in writer.stdout.readline():
        assert writer.poll() is None
        assert time.monotonic() < deadline
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ultralytics.utils.LOGGER.info", said.append)
        dataset = cached()
    assert said[-1].endswith("4 of 8 images written"), "two transactions of two were whole"
    stock = dataset_of(str(boards_copy), "train")
    assert all(np.array_equal(dataset.load_image(i)[0], stock.load_image(i)[0]) for i in range(8))


def test_two_processes_fill_it_at_once(cached: Cached, boards_copy: Path, tmp_path: Path) -> None:
    script = tmp_path / "writer.py"
    script.write_text(WRITER.replace("i == 5", "i > 99").replace('cache="lmdb"', '"train", cache="lmdb"'))
    command = [sys.executable, str(script), str(boards_copy), str(Path(__file__).parent)]
    writers = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    assert [(w.communicate(timeout=120)[1][-500:], w.returncode)[1] for w in writers] == [0, 0]
    dataset, stock = cached(), dataset_of(str(boards_copy), "train")
    assert all(np.array_equal(dataset.load_image(i)[0], stock.load_image(i)[0]) for i in range(8))


def test_a_training_uses_it(boards_copy: Path, tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    quick = {"imgsz": SIZE, "batch": 4, "workers": 2, "plots": False, "device": "cpu", "verbose": False}
    YOLO("dsmoe-n.yaml").train(
        data=boards_copy, epochs=1, cache="lmdb", dsmoe_text="hash", project=str(tmp_path), name="run", **quick
    )
    assert (tmp_path / "run" / "weights" / "best.pt").is_file()
    for split in ("train", "val"):
        assert (boards_copy.parent / "images" / f"{split}-{SIZE}-3.lmdb" / "data.mdb").is_file()


def test_a_training_without_the_library_leaves_no_run(
    boards_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ConfigError, match=r"^cache=lmdb: expected an installed lmdb"):
        YOLO("dsmoe-n.yaml").train(data=boards_copy, epochs=1, cache="lmdb", project=str(tmp_path / "runs"))
    assert not list((tmp_path / "runs").glob("*"))


def test_damaged_and_foreign_files_are_one_line(cached: Cached) -> None:
    path = lmdb_cache.cache_path(cached())
    lmdb = lmdb_cache.load_library()
    with lmdb.open(str(path), map_size=1 << 30) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"format", b"0")
    with pytest.raises(DataError, match=r"\.lmdb: expected a cache of format 1 \(delete it to begin anew\), got"):
        cached()
    (path / "data.mdb").write_bytes(b"no cache at all" * 1000)
    with pytest.raises(DataError, match=r"\.lmdb: expected a cache that can be read and written") as caught:
        cached()
    assert "\n" not in str(caught.value)


def test_without_the_library(boards_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ConfigError, match=r"^cache=lmdb: expected an installed lmdb \(pip install lmdb\), got"):
        lmdb_cache.use_lmdb(dataset_of(str(boards_copy), cache="lmdb"), get_cfg())
