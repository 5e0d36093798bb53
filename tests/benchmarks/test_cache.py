"""The cache benchmark: four kinds on copies of one set, its bar, its output."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest


def test_bar_by_hand(cache_bench: ModuleType, interleaved: ModuleType) -> None:
    times = {"lmdb": interleaved.Timing(70, 90, 1), "disk": interleaved.Timing(100, 100, 1)}
    bar = cache_bench.bar(times)
    assert (bar.value, bar.beside, bar.aim, bar.holds) == (0.7, {"median": 0.9}, 0.8, True)


def test_it_prints_and_writes_and_leaves_the_set_alone(
    cache_bench: ModuleType,
    tiny_boards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("lmdb")
    file, images = tmp_path / "out.json", tiny_boards.parent / "images"
    before = sorted(images.rglob("*"))
    words = ["--data", str(tiny_boards), "--images", "6", "--imgsz", "64", "--workers", "1", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["cache", *words, "--json", str(file)])
    cache_bench.main()
    assert "6 images, 64 px, batch 8, 1 workers, 1 epochs" in capsys.readouterr().out
    found = json.loads(file.read_text())
    assert list(found["ms"]) == ["none", "disk", "ram", "lmdb"]
    assert all(times["minimum"] > 0 for times in found["ms"].values())
    assert sorted(images.rglob("*")) == before


def test_without_the_library(cache_bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    monkeypatch.setattr(sys, "argv", ["cache"])
    with pytest.raises(SystemExit, match=r"^error: cache=lmdb: expected an installed lmdb"):
        cache_bench.main()
