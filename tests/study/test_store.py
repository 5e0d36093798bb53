"""What is kept of finished cells: whole or refused, and enough for a study in another checkout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ultra_dsmoe.errors import DataError
from ultra_dsmoe.evaluate.bootstrap import mean_ap
from ultra_dsmoe.evaluate.evaluation import ImageStats
from ultra_dsmoe.study import store
from ultra_dsmoe.study.results_csv import read_rows


@pytest.fixture
def folder(tmp_path: Path, fake_stats: Callable[[int], ImageStats]) -> Path:
    """Return the folder of a cell that was validated."""
    np.savez(tmp_path / "matches.npz", **store.pack(fake_stats(0)))
    (tmp_path / "result.json").write_text('{"mAP50": 0.5}')
    (tmp_path / "cell.json").write_text('{"settings": {}, "commit": "c0ffee"}')
    return tmp_path


def test_matches_survive_the_file(fake_stats: Callable[[int], ImageStats], tmp_path: Path) -> None:
    stats = fake_stats(0)
    stats.tp[2], stats.conf[2], stats.pred_cls[2] = np.zeros((0, 10), bool), np.zeros(0), np.zeros(0)
    np.savez(tmp_path / "m.npz", **store.pack(stats))
    back = store.unpack(tmp_path / "m.npz")
    np.testing.assert_allclose(mean_ap(back), mean_ap(stats), rtol=1e-6)
    assert [len(c) for c in back.conf] == [4, 4, 0, 4, 4, 4]
    assert back.files == stats.files


def test_small_files_give_the_same_map(folder: Path) -> None:
    """Many detections, most of them of little confidence, as real nets have: mAP stays, the file shrinks."""
    rng = np.random.default_rng(0)
    labels = [rng.integers(3, size=3).astype(float) for _ in range(200)]
    conf = [np.sort(10.0 ** rng.uniform(-3, 0, 150))[::-1] for _ in labels]
    tp = [rng.random((150, 1)) < 0.04 * c[:, None] ** 0.7 * np.linspace(1, 0.2, 10) * 25 / 3 for c in conf]
    stats = ImageStats([f"{i}.png" for i in range(200)], tp, conf, [rng.integers(3, size=150) for _ in labels], labels)
    np.savez_compressed(folder / "matches.npz", **store.pack(stats))
    (folder / "kept.npz").write_bytes(store.gather(folder))
    kept = store.read_kept(folder / "kept.npz").stats
    assert mean_ap(stats)[0] > 0.05
    np.testing.assert_allclose(mean_ap(kept), mean_ap(stats), atol=1e-3)
    assert min(c.min() for c in kept.conf) >= 0.99 * store.LEAST
    assert {len(c) for c in kept.conf} <= set(range(store.MOST + 1))
    assert all(np.all(np.diff(c) <= 0) for c in kept.conf)  # in the order that they had
    assert (folder / "kept.npz").stat().st_size < (folder / "matches.npz").stat().st_size / 2


@pytest.mark.parametrize("table", [None, "", "knockout,map50_change\nhub-constant,-1.5\n"])
def test_kept(folder: Path, fake_stats: Callable[[int], ImageStats], table: str | None) -> None:
    """Not evaluated, nothing to switch off and a table are three things."""
    if table is not None:
        (folder / "knockout.csv").write_text(table)
    (folder / "kept.npz").write_bytes(store.gather(folder))
    kept = store.read_kept(folder / "kept.npz")
    assert (kept.result, kept.knockouts) == ({"mAP50": 0.5, "commit": "c0ffee"}, table)
    np.testing.assert_allclose(mean_ap(kept.stats), mean_ap(fake_stats(0)), atol=1e-3)


def test_matches_of_another_form(folder: Path) -> None:
    """As an earlier version of this file wrote them."""
    with np.load(folder / "matches.npz") as file:
        arrays = {**file, "tp": np.unpackbits(file["tp"], axis=1, count=10).astype(bool)}
    np.savez(folder / "matches.npz", **arrays)
    with pytest.raises(DataError, match=r"expected a cell's files; delete the folder to run it .*, got damaged ones"):
        store.gather(folder)


@pytest.mark.parametrize("name", ["matches.npz", "result.json", "cell.json"])
def test_damaged_folder(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"expected a cell's files; delete the folder to run it .*, got damaged ones"):
        store.gather(folder)


def test_damaged_file(folder: Path) -> None:
    whole, file = store.gather(folder), folder / "kept.npz"
    for content in (b"", b"PK no archive", whole[:-200], whole[: len(whole) // 2] + bytes(len(whole) // 2)):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"kept\.npz: expected a finished cell, got none that can be read"):
            store.read_kept(file)
    with pytest.raises(DataError, match="expected a finished cell"):
        store.read_kept(folder / "gone.npz")


def test_another_checkout(
    host_class: type[Any], write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    """Table and kept cells are enough for the page; a lost row comes back without a training."""
    run(write())
    page, table = (tmp_path / "out" / "tiny.md").read_text(), tmp_path / "out" / "tiny.csv"
    rows = table.read_text()
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "out" / "tiny.md").unlink()
    table.write_text("".join(rows.splitlines(keepends=True)[:-1]))
    assert run(write(), None, "--dry-run")[1].splitlines()[-2:] == ["boards-yolov8n-1: finished", "boards-k2-1: kept"]
    host = host_class()
    code, out, _ = run(write(), host)
    assert (code, host.commands) == (0, [])
    assert "cell 4 of 4: boards-k2-1 (kept: equal settings were run before)\n" in out
    assert (tmp_path / "out" / "tiny.md").read_text() == page
    assert table.read_text() == rows


def test_damaged_cell(
    host_class: type[Any], write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    """A validation that left half a file fails that cell alone, and says what to do."""

    class Cut(host_class):
        def validate(self, folder: Path) -> None:
            super().validate(folder)
            if folder.name == "boards-k2-0":
                (folder / "result.json").write_text("{")

    code, out, _ = run(write(seeds=[0]), Cut())
    assert code == 1
    assert f"boards-k2-0 failed: {tmp_path / 'runs' / 'tiny' / 'boards-k2-0'}: expected a cell's files; delete" in out
    assert [r["cell"] for r in read_rows(tmp_path / "out" / "tiny.csv")] == ["boards-yolov8n-0"]
    assert json.loads((tmp_path / "runs" / "tiny" / "boards-k2-0" / "cell.json").read_text())["commit"] == "c0ffee"
