"""The LMDB cache: the host's images, safe under workers, killed writers, changed pictures, full disks and bad bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
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


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of what the log is told from now on."""
    lines: list[str] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(f"ultralytics.utils.LOGGER.{level}", lines.append)
    return lines


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


def test_a_second_run_writes_nothing_and_a_changed_picture_is_cached_anew(cached: Cached, said: list[str]) -> None:
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


def test_a_picture_changed_within_its_size_and_time_is_noticed(
    cached: Cached, boards_copy: Path, said: list[str]
) -> None:
    for file in sorted((boards_copy.parent / "images" / "train").iterdir()):
        assert cv2.imwrite(str(file.with_suffix(".bmp")), cv2.imread(str(file)))
        file.unlink()
    dataset = cached()
    file = Path(dataset.im_files[3])
    before = file.stat()
    assert cv2.imwrite(str(file), 255 - cv2.imread(str(file)))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    new = cached().load_image(3)[0]
    assert any(line.endswith("1 of 8 images have changed since they were cached, cached anew") for line in said)
    assert np.array_equal(new, dataset_of(str(boards_copy), "train").load_image(3)[0])


def test_a_picture_that_changes_while_it_is_cached_is_refused(boards_copy: Path) -> None:
    pytest.importorskip("lmdb")
    dataset = dataset_of(str(boards_copy), cache="lmdb")
    load = dataset.load_image

    def and_touch(i: int) -> Any:
        os.utime(dataset.im_files[i], (1, 1))
        return load(i)

    dataset.load_image = and_touch
    with pytest.raises(DataError, match=r"expected a picture that stays as it is while it is cached, got another"):
        lmdb_cache.use_lmdb(dataset, dataset.hyp_for_test)


def test_a_cache_of_another_size_is_refused(cached: Cached) -> None:
    path = lmdb_cache.cache_path(cached())
    shutil.copytree(path, path.with_name(path.name.replace(str(SIZE), "32")))
    wanted = (
        r"-32-3\.lmdb: expected a cache of format 2, imgsz 32, 3 channels \(delete it to begin anew\), got format 2, "
    )
    with pytest.raises(DataError, match=wanted + rf"imgsz {SIZE}, 3 channels$"):
        cached(imgsz=32)


def test_flipped_bytes_are_not_used(cached: Cached, boards_copy: Path, said: list[str]) -> None:
    dataset, stock = cached(), dataset_of(str(boards_copy), "train")
    expected = [stock.load_image(i)[0] for i in range(8)]
    file = lmdb_cache.cache_path(dataset) / "data.mdb"
    with file.open("r+b") as stored:
        place = stored.read().index(expected[3].tobytes())
        stored.seek(place + expected[3].nbytes // 2)
        stored.write(bytes([expected[3].flat[expected[3].nbytes // 2] ^ 1]))
    said.clear()
    assert dataset.ims[3] is None
    for _ in range(2):
        assert all(np.array_equal(dataset.load_image(i)[0], expected[i]) for i in range(8))
    words = "damaged, image 3 is not what was written; read from the file instead (delete it to begin anew)"
    assert said == [f"{file.parent}: {words}"]
    assert cached(mosaic=1.0)[3]["img"].shape == (3, SIZE, SIZE)


@pytest.mark.parametrize("count", [0, 1, 100, 8 * 509, 50_003])
def test_every_flipped_bit_and_swapped_page_breaks_the_seal(count: int) -> None:
    data = np.random.default_rng(0).integers(0, 256, count, np.uint8).tobytes()
    record = lmdb_cache._sealed(data)
    found = lmdb_cache._unsealed(memoryview(record))
    assert found is not None
    assert found == data
    for place in range(0, len(record), 997):
        flipped = bytearray(record)
        flipped[place] ^= 1 << place % 8
        assert lmdb_cache._unsealed(flipped) is None
    swapped = record[:8] + data[4096:8192] + data[:4096] + data[8192:]
    assert count <= 4096 or lmdb_cache._unsealed(swapped) is None
    assert lmdb_cache._unsealed(record[:-1]) is None or count == 0
    assert lmdb_cache._unsealed(None) is lmdb_cache._unsealed(b"") is None


def test_a_flipped_row_of_the_index_is_written_anew(cached: Cached, boards_copy: Path, said: list[str]) -> None:
    dataset = cached()
    path, size = lmdb_cache.cache_path(dataset), Path(dataset.im_files[3]).stat().st_size
    lmdb_cache.close_readers()
    content = (path / "data.mdb").read_bytes()
    place = content.index(b'{"state": [%d, ' % size) + len(b'{"state": [')
    (path / "data.mdb").write_bytes(content[:place] + b"-" + content[place + 1 :])
    again = cached()
    assert said[-1] == f"{path}: 0 of 8 images written"
    assert np.array_equal(again.load_image(3)[0], dataset_of(str(boards_copy), "train").load_image(3)[0])


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    boards_copy: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """A limit on the size of files lets the second transaction fail in truth; the free space is made up."""
    pytest.importorskip("lmdb")
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(lmdb_cache, "COMMIT", 2)
    dataset, stock = (dataset_of(str(boards_copy), "train", cache=cache) for cache in ("lmdb", False))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 12_345))
        resource.setrlimit(resource.RLIMIT_FSIZE, (72 * 1024, limits[1]))
        try:
            with pytest.raises(DataError) as caught:
                lmdb_cache.use_lmdb(dataset, dataset.hyp_for_test)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    path = lmdb_cache.cache_path(dataset)
    words = "expected 0.1 MB free on its disk for the rest (what is cached stays), got 0.0 MB (mdb_"
    assert str(caught.value).startswith(f"{path}: {words}")
    assert "\n" not in str(caught.value)
    dataset = dataset_of(str(boards_copy), "train", cache="lmdb")
    lmdb_cache.use_lmdb(dataset, dataset.hyp_for_test)
    assert said[-1] == f"{path}: 6 of 8 images written"
    assert all(np.array_equal(dataset.load_image(i)[0], stock.load_image(i)[0]) for i in range(8))


def test_a_killed_writer_leaves_whole_images(
    cached: Cached, boards_copy: Path, tmp_path: Path, said: list[str]
) -> None:
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
    with pytest.raises(DataError, match=r"\.lmdb: expected a cache of format 2, .*\(delete it to begin anew\), got 0$"):
        cached()
    (path / "data.mdb").write_bytes(b"no cache at all" * 1000)
    with pytest.raises(DataError, match=r"\.lmdb: expected a cache that can be read and written") as caught:
        cached()
    assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_written_is_one_line(tmp_path: Path) -> None:
    """LMDB makes the folder by the system's own call, whose error is none of LMDB's."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    library = SimpleNamespace(open=refuse)
    with pytest.raises(DataError, match=r"train.lmdb: expected a place that can be written.*, got Permission denied$"):
        lmdb_cache._opened(library, tmp_path / "train.lmdb")


def test_without_the_library(boards_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ConfigError, match=r"^cache=lmdb: expected an installed lmdb \(pip install lmdb\), got"):
        lmdb_cache.use_lmdb(dataset_of(str(boards_copy), cache="lmdb"), get_cfg())
